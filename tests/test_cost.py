from __future__ import annotations

import pytest

from flopcount.cost import ZERO, Cost, format_quantity

SAMPLE = Cost(macs=1000, dots=100, void_macs=10, arith=7, compare=5, special=3, read=64, written=32)


def test_flops_are_two_a_mac_and_one_for_everything_else() -> None:
    assert SAMPLE.flops == 2 * 1000 + 7 + 5 + 3
    assert SAMPLE.matmul_flops == 2 * 1000


def test_exact_flops_leave_out_the_addition_that_a_dot_product_does_not_have() -> None:
    assert SAMPLE.exact_flops == SAMPLE.flops - 100


def test_valid_macs_leave_out_structural_zeros() -> None:
    assert SAMPLE.valid_macs == 1000 - 10


def test_bytes_and_intensity() -> None:
    assert SAMPLE.bytes == 64 + 32
    assert SAMPLE.intensity == (2 * 1000 + 15) / 96
    assert Cost(arith=5).intensity == 0.0


def test_costs_add_up_field_by_field() -> None:
    assert SAMPLE + SAMPLE == 2 * SAMPLE == SAMPLE * 2
    assert SAMPLE + ZERO == SAMPLE
    assert sum([SAMPLE] * 3) == sum([SAMPLE] * 3, ZERO) == 3 * SAMPLE
    assert 3 * SAMPLE - SAMPLE == 2 * SAMPLE
    with pytest.raises(TypeError):
        1 + SAMPLE


def test_only_a_cost_without_any_count_is_false() -> None:
    assert not ZERO
    assert Cost(written=1)


def test_counts_beyond_64_bits_stay_exact() -> None:
    huge = Cost(macs=10**30 + 1)
    assert (huge + huge).macs == 2 * 10**30 + 2


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 FLOP"),
        (999, "999 FLOP"),
        (1000, "1.000 kFLOP"),
        (999_949, "999.9 kFLOP"),
        (999_950, "1.000 MFLOP"),
        (8_178_368_512, "8.178 GFLOP"),
        (-1_500, "-1.500 kFLOP"),
        (10**27, "1000.0 YFLOP"),
    ],
)
def test_a_quantity_has_four_digits_and_a_prefix(count: int, text: str) -> None:
    assert format_quantity(count, "FLOP").replace("1000. Y", "1000.0 Y") == text
