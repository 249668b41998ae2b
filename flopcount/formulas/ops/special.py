"""Special functions: one evaluation of a function that has no finite formula is one operation.

Kernels evaluate these by polynomials and recurrences, whose lengths depend on the precision and
the argument; an evaluation counts once, as for exp. So does one of an orthogonal polynomial, whose
degree is the value of a tensor.
"""

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.ops.pointwise import steps
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import elementwise

# error functions and the normal distribution's
steps("erf", "erfc", "erfinv", "special_erfcx", "special_ndtri", "special_log_ndtr", special=1)

# the gamma function's family
steps("lgamma", "digamma", "polygamma", "igamma", "igammac", "special_zeta", special=1)

# Bessel functions
steps("i0", "special_i0e", "special_i1", "special_i1e", "special_airy_ai", special=1)
steps("special_bessel_j0", "special_bessel_j1", "special_bessel_y0", "special_bessel_y1", special=1)
steps("special_modified_bessel_i0", "special_modified_bessel_i1", special=1)
steps("special_modified_bessel_k0", "special_modified_bessel_k1", special=1)
steps("special_scaled_modified_bessel_k0", "special_scaled_modified_bessel_k1", special=1)
steps("special_spherical_bessel_j0", special=1)

# orthogonal polynomials
steps("special_chebyshev_polynomial_t", "special_chebyshev_polynomial_u", special=1)
steps("special_chebyshev_polynomial_v", "special_chebyshev_polynomial_w", special=1)
steps("special_shifted_chebyshev_polynomial_t", "special_shifted_chebyshev_polynomial_u", special=1)
steps("special_shifted_chebyshev_polynomial_v", "special_shifted_chebyshev_polynomial_w", special=1)
steps("special_hermite_polynomial_h", "special_hermite_polynomial_he", special=1)
steps("special_laguerre_polynomial_l", "special_legendre_polynomial_p", special=1)

# entropies
steps("special_entr", compare=3, special=1, mul=1)  # -x·log x if x > 0, 0 if x = 0, else -inf
steps("special_xlog1py", compare=1, special=1, mul=1)  # x·log1p(y), or 0 if x = 0


@formula("aten::mvlgamma")
def mvlgamma(x: Tensor, p: int, *, out: Tensor) -> Cost:
    """p·(p - 1)/4·log π + Σ lgamma(x - j/2) over j < p: p shifts, p - 1 sums, one of a constant."""
    return elementwise(out, special=p, add=2 * p)


@formula("aten::_standard_gamma_grad", "aten::_dirichlet_grad")
def standard_gamma_grad(*args: Tensor, out: Tensor) -> Gradients:
    """The derivative of a sample by its parameter: one evaluation."""
    return Gradients(input=elementwise(out, special=1))
