from __future__ import annotations

import re

import pytest

from flopcount.cost import ZERO, Convention, Cost, format_quantity, parse_quantity

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


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("8.2 GFLOP", (8_200_000_000, "FLOP")),
        ("8.2GFLOP", (8_200_000_000, "FLOP")),
        ("1_024 MAC", (1_024, "MAC")),
        ("0 B", (0, "B")),
        ("1.1 kB", (1_100, "B")),  # 1.1 is no binary fraction: as a float it would be 1100.0000…
        ("1.000000000000000000000001 YMAC", (10**24 + 1, "MAC")),
        ("1 GFLOPs", (10**9, "FLOP")),
        ("2 GMACs", (2 * 10**9, "MAC")),
        ("3 TFLOP", (3 * 10**12, "FLOP")),
        ("2FLOPs", (2, "FLOP")),
        ("2  GMACs", (2 * 10**9, "MAC")),
        ("1.5e9 FLOP", (1_500_000_000, "FLOP")),
        ("1.5E+9FLOPs", (1_500_000_000, "FLOP")),
        ("1500e-3 kMAC", (1_500, "MAC")),
        ("1 EFLOP", (10**18, "FLOP")),  # a prefix, not an exponent
        ("1EFLOP", (10**18, "FLOP")),
        ("1e2EB", (100 * 10**18, "B")),
        ("1,000 FLOP", (1_000, "FLOP")),  # as reports print it
        ("12,345,678.5 kMAC", (12_345_678_500, "MAC")),
    ],
)
def test_a_quantity_is_read_exactly(text: str, quantity: tuple[int, str]) -> None:
    assert parse_quantity(text) == quantity


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 MBxyz", "got '1 MBxyz'"),
        ("x1 MB", "got 'x1 MB'"),
        ("1 MB\n", "such as '8.2 GFLOP'"),
        ("8.2 GFLOPS", "got '8.2 GFLOPS': a rate (FLOP/s, FLOPS) is no count"),
        ("8.2 G", "got '8.2 G'"),
        ("8", "got '8'"),
        ("-1 FLOP", "got '-1 FLOP'"),
        ("+1 FLOP", "got '+1 FLOP'"),
        ("nan FLOP", "got 'nan FLOP'"),
        ("inf FLOP", "got 'inf FLOP'"),
        ("1e9", "got '1e9'"),
        ("1e FLOP", "got '1e FLOP'"),
        ("1e999999999 FLOP", "got '1e999999999 FLOP'"),  # it would fill the memory
        ("1,5 GFLOP", "got '1,5 GFLOP'"),
        ("1,0000 FLOP", "got '1,0000 FLOP'"),
        ("1_000,000 FLOP", "got '1_000,000 FLOP'"),
        ("1__0 FLOP", "got '1__0 FLOP'"),
        (" 1 FLOP", "got ' 1 FLOP'"),
        ("8.2\u00a0GFLOP", r"got '8.2\xa0GFLOP'"),
        ("8.2 G FLOP", "got '8.2 G FLOP'"),
        ("8.2 gflop", "got '8.2 gflop'"),
        ("8.2 Gflops", "got '8.2 Gflops': a rate"),
        ("1 KFLOP", "got '1 KFLOP'"),
        ("1 KiB", "got '1 KiB'"),
        ("1 Bs", "got '1 Bs'"),
        ("1e-1 FLOP", "expected a whole number of FLOP, got '1e-1 FLOP'"),
        ("١ FLOP", "got '١ FLOP'"),
        ("", "got ''"),
        ("1.5 FLOP", "expected a whole number of FLOP, got '1.5 FLOP'"),
    ],
)
def test_what_is_no_quantity_is_refused_with_the_right_form(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_quantity(text)


@pytest.mark.parametrize(
    "unit",
    [
        *("FLOP/s", "FLOPs/s", "FLOP/sec", "FLOPs / s", "FLOP per second", "FLOPps", "FLOPS"),
        *("MAC/s", "MACs/s", "MACS", "B/s", "Bps"),
    ],
)
def test_a_rate_is_refused_with_the_reason(unit: str) -> None:
    for text in (f"1 {unit}", f"1 G{unit}", f"1e9{unit}"):
        says = (
            f"expected a number, an SI prefix and FLOP, MAC or B, such as '8.2 GFLOP', got {text!r}"
        )
        with pytest.raises(
            ValueError, match=re.escape(f"{says}: a rate (FLOP/s, FLOPS) is no count")
        ):
            parse_quantity(text)


def test_a_number_without_a_unit_is_no_quantity() -> None:
    with pytest.raises(TypeError, match=r"such as '8\.2 GFLOP', got 8200"):
        parse_quantity(8200)  # type: ignore[arg-type]


COUNTED = Cost(
    macs=1000, dots=10, void_macs=100, arith=7, compare=5, special=3, read=11, written=13
)

CONVENTIONS: dict[str, tuple[Convention, int]] = {
    "the default is flops": (Convention(), COUNTED.flops),
    "a dot product saves an addition": (Convention(dots=-1), COUNTED.exact_flops),
    "contractions alone": (Convention(arith=0, compare=0, special=0), COUNTED.matmul_flops),
    "MACs that meet data": (
        Convention(macs=1, void_macs=-1, arith=0, compare=0, special=0),
        COUNTED.valid_macs,
    ),
    "an exp is 8": (Convention(special=8), 2 * 1000 + 7 + 5 + 8 * 3),
    "each kind apart": (
        Convention(macs=1, dots=10**4, void_macs=10**7, arith=10**10, compare=0, special=10**12),
        1000 + 10 * 10**4 + 100 * 10**7 + 7 * 10**10 + 3 * 10**12,
    ),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_convention_reads_a_cost(name: str) -> None:
    convention, expected = CONVENTIONS[name]
    assert convention.flops(COUNTED) == expected
    assert type(convention.flops(COUNTED)) is int


def test_weights_of_a_convention_may_be_fractions() -> None:
    assert Convention(compare=0.5).flops(Cost(compare=3)) == 1.5


def test_a_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError, match="special must be a number, got 'eight'"):
        Convention(special="eight")  # type: ignore[arg-type]  # the mistake


def test_a_convention_reads_costs_only() -> None:
    with pytest.raises(TypeError, match=r"expected a Cost, such as report\.total, got dict"):
        Convention().flops({})  # type: ignore[arg-type]  # the mistake
