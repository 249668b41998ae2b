"""Ops without a meaningful number of FLOPs, each with the reason. Their bytes count.

Their work depends on values, or torch chooses between algorithms that have nothing in common.
"""

from flopcount.formulas import bytes as traffic
from flopcount.formulas.registry import free

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
free(
    "aten::masked_select",
    traffic=traffic.gathered,
    why="elements are picked, none is computed; how many, only the mask's values tell",
)
free(
    "aten::_cslt_sparse_mm_search",
    why="tries kernels for the same product, to find which one is fast",
)
free("aten::_linalg_check_errors", why="looks at what a solver said of itself, not at data")
free(
    "aten::_validate_compressed_sparse_indices",
    why="integers are checked for their order: no arithmetic on data",
)
free(
    "aten::_philox_key_fold_in",
    "aten::_philox_key_split",
    why="rounds of integer products that make keys for a generator",
)
