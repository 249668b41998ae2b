"""Linear algebra as textbooks write it: loops over numbers that count their operations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.formulas.counting import Number, dot, numbers, total


def cholesky(a: Any) -> Any:
    a, n = a.copy(), len(a)
    for k in range(n):
        a[k, k] = a[k, k].sqrt()
        for i in range(k + 1, n):
            a[i, k] = a[i, k] / a[k, k]
        for j in range(k + 1, n):
            for i in range(j, n):
                a[i, j] = a[i, j] - a[i, k] * a[j, k]
    return np.where(np.tri(n), a, 0.0)


def lu(a: Any) -> Any:
    """Both factors in one, the rows' order, and the sign of the order."""
    a, order, sign = a.copy(), np.arange(len(a)), 1
    for k in range(min(a.shape)):
        sizes = [abs(x) for x in a[k:, k]]
        pivot = 0
        for i in range(1, len(sizes)):
            if sizes[i] > sizes[pivot]:
                pivot = i
        if pivot:
            sign = -sign
            swapped = [k + pivot, k]
            a[[k, k + pivot]], order[[k, k + pivot]] = a[swapped], order[swapped]
        reciprocal = 1 / a[k, k]
        for i in range(k + 1, len(a)):
            a[i, k] = a[i, k] * reciprocal
            for j in range(k + 1, a.shape[1]):
                a[i, j] = a[i, j] - a[i, k] * a[k, j]
    return a, order, sign


def forward(t: Any, b: Any, unit: Any = False) -> Any:
    """T·x = b with a lower triangle."""
    x = b.copy()
    for c in range(b.shape[1]):
        for i in range(len(t)):
            for j in range(i):
                x[i, c] = x[i, c] - t[i, j] * x[j, c]
            if not unit:
                x[i, c] = x[i, c] / t[i, i]
    return x


def backward(t: Any, b: Any, unit: Any = False) -> Any:
    """T·x = b with an upper triangle: the lower one's, from the other end."""
    return forward(t[::-1, ::-1], b[::-1], unit)[::-1]


def solve(a: Any, b: Any) -> Any:
    factors, order, _ = lu(a)
    return backward(factors, forward(factors, b[order], unit=True))


def upper_inverse(u: Any) -> Any:
    """Column by column: each entry a dot product, times the diagonal's reciprocal."""
    n = len(u)
    x = np.zeros_like(u)
    for j in range(n):
        x[j, j] = 1 / u[j, j]
    for j in range(n):
        for i in reversed(range(j)):
            inner = dot(u[i, i + 1 : j + 1], x[i + 1 : j + 1, j])
            x[i, j] = Number(-inner.value) * x[i, i]
    return x


def inverse(a: Any) -> Any:
    """X·L = U⁻¹, row by row from the last column, L's diagonal being one."""
    factors, order, _ = lu(a)
    x, n = upper_inverse(factors), len(a)
    x = np.where(np.tri(n).T, x, numbers(torch.zeros(n, n)))
    x = backward(factors.T, x.T, unit=True).T
    return x[:, np.argsort(order)]


def inverse_from_cholesky(t: Any) -> Any:
    inverted = upper_inverse(t.T).T
    n = len(t)
    result = np.empty_like(t)
    for i in range(n):
        for j in range(i + 1):
            result[i, j] = result[j, i] = dot(inverted[i:, i], inverted[i:, j])
    return result


def determinant(a: Any) -> Any:
    factors, _, sign = lu(a)
    result = factors[0, 0]
    for x in factors.diagonal()[1:]:
        result = result * x
    return result * sign


def reflect(v: Any, tau: Any, rows: Any) -> None:
    """rows - tau·v·(vᵀ·rows), vᵀ·x being summed up from zero."""
    for c in range(rows.shape[1]):
        scaled = total([Number(0.0), *(x * y for x, y in zip(v, rows[:, c], strict=True))]) * tau
        for i in range(len(v)):
            rows[i, c] = rows[i, c] - v[i] * scaled


def qr(a: Any) -> Any:
    """R, and Householder's reflectors v with v₁ = 1 and their τ, for a tall matrix."""
    a, found = a.copy(), []
    for k in range(a.shape[1]):
        alpha, rest = a[k, k], a[k + 1 :, k]
        norm = total(x * x for x in rest).sqrt()
        root = (alpha * alpha + norm * norm).sqrt()
        beta = Number(math.copysign(root.value, -alpha.value))
        tau = (beta - alpha) / beta
        reciprocal = 1 / (alpha - beta)
        v = np.array([Number(1.0), *(x * reciprocal for x in rest)], dtype=object)
        reflect(v, tau, a[k:, k + 1 :])
        a[k, k], a[k + 1 :, k] = beta, Number(0.0)
        found.append((v, tau))
    return a, found


def generate(found: Any, m: int, n: int) -> Any:
    """The first n columns of the reflectors' product, from the last reflector to the first."""
    q = numbers(torch.eye(m, n))
    for k, (v, tau) in reversed(list(enumerate(found))):
        reflect(v, tau, q[k:, k + 1 :])
        q[k, k] = 1 - tau
        for i in range(1, len(v)):
            q[k + i, k] = v[i] * Number(-tau.value)
    return q


def apply_left(found: Any, x: Tensor) -> Any:
    x = x.copy()
    for k, (v, tau) in reversed(list(enumerate(found))):
        reflect(v, tau, x[k:])
    return x


def apply_right(found: Any, x: Tensor) -> Any:
    """x - (x·v)·(tau·v)ᵀ, x·v being summed up from zero."""
    x = x.copy()
    for k, (v, tau) in enumerate(found):
        scaled = [y * tau for y in v]
        for row in x[:, k:]:
            product = total([Number(0.0), *(y * z for y, z in zip(row, v, strict=True))])
            for i in range(len(v)):
                row[i] = row[i] - product * scaled[i]
    return x


def ldl(a: Any) -> Any:
    """L·D·Lᵀ without a search for pivots: both factors in one."""
    a, n = a.copy(), len(a)
    for k in range(n):
        reciprocal = 1 / a[k, k]
        column = a[k + 1 :, k].copy()
        for i in range(k + 1, n):
            a[i, k] = a[i, k] * reciprocal
        for j in range(k + 1, n):
            for i in range(j, n):
                a[i, j] = a[i, j] - a[i, k] * column[j - k - 1]
    return np.where(np.tri(n), a, 0.0)


def ldl_solve(t: Any, b: Any) -> Any:
    x = forward(t, b, unit=True)
    for c in range(b.shape[1]):
        for i in range(len(t)):
            x[i, c] = x[i, c] / t[i, i]
    return backward(t.T, x, unit=True)
