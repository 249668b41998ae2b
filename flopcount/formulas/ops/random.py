"""Random numbers. By convention drawing one is no arithmetic: generators work on integers, and
each library turns their bits into a distribution in its own way. The bytes count.
"""

from functools import partial

from flopcount.formulas import bytes as traffic
from flopcount.formulas.ops.movement import moves
from flopcount.formulas.registry import free

PARAMETERS = ("from", "to", "low", "high", "mean", "std", "median", "sigma", "lambd", "p")
"""Names of parameters for the numbers that shape a distribution."""

draws = partial(moves, traffic=traffic.refilled, coefficients=PARAMETERS)

# parameters are numbers; the first argument is a target, or lends its shape
moves("rand", "randn", "randint", "randperm", "_cudnn_init_dropout_state")
moves("rand_like", "randn_like", "randint_like", traffic=traffic.refilled)
draws("random", "uniform", "cauchy", "exponential", "geometric")
draws("log_normal", "normal_functional", "_fill_mem_eff_dropout_mask")
draws("_philox_normal", "_philox_uniform")
draws("normal_", "bernoulli_", "bernoulli.p")

# parameters are tensors
moves("normal", "bernoulli")

# drawn by algorithms whose work has no one number
REJECTED = "drawn by trial and error: how many trials it takes, only the generator knows"
free("aten::binomial", "aten::poisson", "aten::_standard_gamma", why=REJECTED)
free(
    "aten::_sample_dirichlet",
    why="sums of gamma variates, drawn by trial and error: only the generator knows how many",
)
free(
    "aten::multinomial",
    why="a running sum that is searched, or a race of exponential variates: kernels differ",
)
KEYS = "rounds of integer products that make keys for a generator"
free("aten::_philox_key_fold_in", "aten::_philox_key_split", why=KEYS)
