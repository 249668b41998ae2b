"""Weights of one's own."""

from __future__ import annotations

import pytest

from flopcount import Convention, Cost

COST = Cost(macs=1000, dots=10, void_macs=100, arith=7, compare=5, special=3, read=11, written=13)

READINGS: dict[str, tuple[Convention, int]] = {
    "the default is flops": (Convention(), COST.flops),
    "a dot product saves an addition": (Convention(dots=-1), COST.exact_flops),
    "contractions alone": (Convention(arith=0, compare=0, special=0), COST.matmul_flops),
    "MACs that meet data": (
        Convention(macs=1, void_macs=-1, arith=0, compare=0, special=0),
        COST.valid_macs,
    ),
    "an exp is 8": (Convention(special=8), 2 * 1000 + 7 + 5 + 8 * 3),
    "each kind apart": (
        Convention(macs=1, dots=10**4, void_macs=10**7, arith=10**10, compare=0, special=10**12),
        1000 + 10 * 10**4 + 100 * 10**7 + 7 * 10**10 + 3 * 10**12,
    ),
}


@pytest.mark.parametrize("name", READINGS)
def test_readings(name: str) -> None:
    convention, expected = READINGS[name]
    assert convention.flops(COST) == expected
    assert type(convention.flops(COST)) is int


def test_weights_may_be_fractions() -> None:
    assert Convention(compare=0.5).flops(Cost(compare=3)) == 1.5


def test_a_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError, match="special must be a number, got 'eight'"):
        Convention(special="eight")  # type: ignore[arg-type]  # the mistake


def test_it_reads_costs() -> None:
    with pytest.raises(TypeError, match=r"expected a Cost, such as report\.total, got dict"):
        Convention().flops({})  # type: ignore[arg-type]  # the mistake
