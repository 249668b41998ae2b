"""Primitives in which decompositions end. Here are those that aten lacks or names differently.

The others have the formula of aten's op of the same name.
"""

from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.ops.eigenvalues import singular_vectors
from flopcount.formulas.ops.fft import UNSCALED, length_of, transform
from flopcount.formulas.registry import formula, free
from flopcount.formulas.steps import elementwise


@formula("prims::bessel_i0", "prims::bessel_i0e", "prims::bessel_i1", "prims::bessel_i1e")
@formula("prims::bessel_j0", "prims::bessel_j1", "prims::spherical_bessel_j0")
@formula("prims::cbrt", "prims::erf_inv", "prims::erfcx", "prims::ndtri", "prims::zeta")
def evaluated(*args: Any, out: Tensor) -> Cost:
    """One evaluation for each element, as of all special functions."""
    return elementwise(out, special=1)


@formula("prims::fft_c2c")
def c2c(x: Tensor, *, dim: Any, forward: bool, out: Tensor) -> Cost:
    """A transform of complex numbers, which is scaled later."""
    return transform(out.numel(), length_of(out, dim), UNSCALED, parts=2)


@formula("prims::fft_r2c")
def r2c(x: Tensor, *, dim: Any, onesided: bool, out: Tensor) -> Cost:
    """A transform of real numbers, which is scaled later."""
    return transform(x.numel(), length_of(x, dim), UNSCALED, parts=1)


@formula("prims::fft_c2r")
def c2r(x: Tensor, *, dim: Any, last_dim_size: int, out: Tensor) -> Cost:
    """A transform that results in real numbers, which is scaled later."""
    return transform(out.numel(), length_of(out, dim), UNSCALED, parts=1)


@formula("prims::svd")
def svd(a: Tensor, *, full_matrices: bool, out: Any) -> Cost:
    """U·Σ·Vᵀ."""
    return singular_vectors(a, full=full_matrices)


# copies
free("prims::collapse", "prims::convert_element_type", "prims::device_put", "prims::item")
free("prims::reshape", "prims::rev", "prims::copy_strided")
free("prims::copy_to", traffic=traffic.refilled)

# sequences and constants
free("prims::iota", "prims::_make_token", "prims::_sink_tokens")
free("prims::maximum_value", "prims::minimum_value", traffic=traffic.nothing)
free("prims::as_strided", "inductor_prims::inductor_reserve_rng_state", traffic=traffic.nothing)

# integers
free("prims::shift_left", "prims::shift_right_arithmetic", "prims::xor_sum")
