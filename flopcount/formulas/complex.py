"""Functions of complex numbers: the real steps that one evaluation takes, by its textbook form.

Letters: z = x + iy, r = |z|, w another complex number, a a real one.
"""

from flopcount.cost import Cost

SUM = Cost(arith=2)  # z + w: of each part
SHIFT = Cost(arith=1)  # z + a: of the real part
SCALING = Cost(arith=2)  # a·z, z / a: of each part
PRODUCT = Cost(arith=6)  # z·w: four products and two sums
QUOTIENT = Cost(arith=11)  # z·w̄ / |w|²: a product, two squares and their sum, two divisions
NEGATION = SELECT = Cost(compare=2)  # of each part
TURN = CONJUGATE = Cost(compare=1)  # i·z swaps the parts and negates one
MODULUS = Cost(arith=4)  # √(x² + y²)
INVERSE = Cost(arith=5) + CONJUGATE  # z̄ / r²
# √((r + x) / 2) + i·√((r - x) / 2), the second with the sign of y
ROOT = MODULUS + 2 * Cost(arith=3) + Cost(compare=1)
EXP = Cost(special=3) + SCALING  # eˣ·(cos y + i·sin y)
LOG = Cost(arith=4, special=2)  # ½·log(x² + y²) + i·atan2(y, x)
SINE = Cost(special=4, arith=2)  # sin x·cosh y + i·cos x·sinh y; cos, sinh and cosh are alike
TANGENT = Cost(special=4, arith=5)  # (sin 2x + i·sinh 2y) / (cos 2x + cosh 2y); tanh is alike
SIGMOID = NEGATION + EXP + SHIFT + INVERSE  # 1 / (1 + e⁻ᶻ)
ARCSINE = TURN + PRODUCT + SHIFT + ROOT + SUM + LOG + TURN  # -i·log(iz + √(1 - z²))
ARTANH = 2 * (SHIFT + LOG) + SUM + SCALING  # ½·(log(1 + z) - log(1 - z))

FUNCTIONS = {
    "neg": NEGATION,
    "_conj_physical": CONJUGATE,
    "conj_physical": CONJUGATE,
    "sgn": MODULUS + SCALING + SELECT,  # z / r, 0 where r = 0
    "polar": Cost(special=2) + SCALING,  # a·(cos y + i·sin y)
    "sqrt": ROOT,
    "rsqrt": ROOT + INVERSE,
    "exp": EXP,
    "exp2": SCALING + EXP,  # e^(z·log 2)
    "expm1": EXP + SHIFT,
    "log": LOG,
    "log2": LOG + SCALING,
    "log10": LOG + SCALING,
    "log1p": SHIFT + LOG,
    "sin": SINE,
    "cos": SINE + CONJUGATE,  # cos x·cosh y - i·sin x·sinh y
    "tan": TANGENT,
    "sinh": SINE,
    "cosh": SINE,
    "tanh": TANGENT,
    "asin": ARCSINE,
    "acos": ARCSINE + SHIFT,  # π/2 - asin z
    "atan": TURN + ARTANH + TURN,  # -i·artanh(iz)
    "asinh": PRODUCT + SHIFT + ROOT + SUM + LOG,  # log(z + √(z² + 1))
    "acosh": 2 * (SHIFT + ROOT) + PRODUCT + SUM + LOG,  # log(z + √(z + 1)·√(z - 1))
    "atanh": ARTANH,
    "sinc": SCALING + SINE + QUOTIENT + SELECT,  # sin πz / πz, 1 where z = 0
    "sigmoid": SIGMOID,
    "silu": SIGMOID + PRODUCT,
}
"""The steps of one evaluation, by the op's name. Ops without an entry are made of products,
sums, roots and selects alone."""
