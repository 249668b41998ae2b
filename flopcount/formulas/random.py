"""Random numbers. By convention drawing one is no arithmetic: generators work on integers, and
what turns their bits into a distribution is the library's affair. The bytes count. Those that
are drawn by trial and error are among the ``meaningless``.
"""

from __future__ import annotations

from flopcount.formulas import traffic
from flopcount.formulas.movement import moves

# parameters are numbers; the first argument is a target, or lends its shape
moves("rand", "randn", "randint", "randperm", "_cudnn_init_dropout_state")
moves("rand_like", "randn_like", "randint_like", traffic=traffic.refilled)
moves("random", "uniform", "cauchy", "exponential", "geometric", traffic=traffic.refilled)
moves("log_normal", "normal_functional", "_fill_mem_eff_dropout_mask", traffic=traffic.refilled)
moves("_philox_normal", "_philox_uniform", traffic=traffic.refilled)
moves("normal_", "bernoulli_", "bernoulli.p", traffic=traffic.refilled)

# parameters are tensors
moves("normal", "bernoulli")
