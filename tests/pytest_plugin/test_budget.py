from __future__ import annotations

import math
import re
import threading

import pytest
import torch
from torch import nn

import flopcount
from flopcount.pytest_plugin.budget import Budget, Measure, flop_budget, marker_line
from flopcount.report.report import Report
from tests.pytest_plugin.conftest import X, model

TOTAL = 2 * 64 + 8 + 8 + 7 + 2 * 64 + 6 + 8
FORWARD = 2 * 64 + 8 + 8 + 7


def faults(budget: Budget, report: Report) -> list[str]:
    return list(budget.judge(report).faults)


@pytest.mark.parametrize(
    ("arguments", "count", "unit"),
    [
        ({}, TOTAL, "FLOP"),
        ({}, 128, "MAC"),
        ({"part": "forward"}, FORWARD, "FLOP"),
        ({"part": "backward"}, TOTAL - FORWARD, "FLOP"),
        ({"part": "backward"}, 64, "MAC"),
        ({"part": "optimizer"}, 0, "FLOP"),
        ({"part": "recompute"}, 0, "B"),
        ({"reading": "matmul"}, 2 * 128, "FLOP"),
        # dots: 8 of the product, and 16 of the weight's gradient, which is 2×4 @ 4×8
        ({"reading": "exact"}, TOTAL - 8 - 16, "FLOP"),
        ({"reading": "valid"}, 128, "MAC"),
    ],
    ids=str,
)
def test_a_budget_holds_exactly_up_to_its_bound(
    arguments: dict[str, str], count: int, unit: str, report: Report
) -> None:
    reading = {"reading": arguments["reading"]} if "reading" in arguments else {}

    def budget(limit: int) -> Budget:
        quantity = f"{limit} {unit}"
        if "part" in arguments:
            return flop_budget(**{arguments["part"]: quantity})  # type: ignore[arg-type]
        return flop_budget(quantity, **reading)  # type: ignore[arg-type]

    assert not faults(budget(count), report)
    assert not faults(budget(count + 1), report)
    if count:
        (fault,) = faults(budget(count - 1), report)
        part = arguments.get("part", "total")
        part += f" ({arguments['reading']})" if reading else ""  # where the unit does not say it
        assert fault == (f"{part}: {count} {unit} is 1 more than its budget of {count - 1} {unit}")


def test_plurals_and_exponents_bound_the_same(report: Report) -> None:
    for quantity in ("128 MACs", "0.128 kMACs", "1.28e2 MAC"):
        assert flop_budget(equal=quantity) == flop_budget(equal="128 MAC")
        assert not faults(flop_budget(equal=quantity), report)


def test_bytes_are_read_and_written(report: Report) -> None:
    assert not faults(flop_budget(f"{report.total.bytes} B"), report)
    assert faults(flop_budget(f"{report.total.bytes - 1} B"), report)


def test_equal_is_neither_more_nor_less(report: Report) -> None:
    assert not faults(flop_budget(equal="128 MAC"), report)
    assert faults(flop_budget(equal="129 MAC"), report) == [
        "total: 128 MAC is 1 less than exactly 129 MAC"
    ]
    assert faults(flop_budget(equal="127 MAC"), report) == [
        "total: 128 MAC is 1 more than exactly 127 MAC"
    ]


def test_several_bounds_hold_at_once(report: Report) -> None:
    budget = flop_budget("127 MAC", f"{TOTAL} FLOP", backward="63 MAC", modules={"1": "0 MAC"})
    assert [fault.partition(":")[0] for fault in faults(budget, report)] == ["total", "backward"]


class TestModules:
    def test_one_by_its_path(self, report: Report) -> None:
        assert not faults(flop_budget(modules={"0": "128 MAC"}), report)
        assert faults(flop_budget(modules={"0": "127 MAC"}), report) == [
            "0: 128 MAC is 1 more than its budget of 127 MAC"
        ]

    def test_the_model_is_the_empty_path(self, report: Report) -> None:
        """All but the sum, and with it the ones that its backward starts from, is the model's."""
        assert faults(flop_budget(modules={"": "0 FLOP"}), report) == [
            f"Sequential: {TOTAL - 7} FLOP is {TOTAL - 7} more than its budget of 0 FLOP"
        ]

    def test_a_shared_module_has_each_of_its_names(self) -> None:
        layer = nn.Linear(8, 8)
        report = flopcount.count(nn.Sequential(layer, layer), torch.ones(4, 8), backward=False)
        assert faults(flop_budget(modules={"1": "511 MAC"}), report) == [
            "0: 512 MAC is 1 more than its budget of 511 MAC"
        ]

    def test_a_pattern_holds_for_each_that_it_matches(self, report: Report) -> None:
        judged = flop_budget(modules={"*": "100 MAC"}).judge(report)
        assert [(measure.what, measure.count) for measure in judged.measures] == [
            ("0", 128),
            ("1", 0),
        ]
        assert len(judged.faults) == 1

    def test_a_pattern_that_nothing_matches_is_a_fault(self, report: Report) -> None:
        assert faults(flop_budget(modules={"encoder.*": "1 GMAC"}), report) == [
            "no module that ran matches 'encoder.*'; modules that ran: '0', '1'"
        ]

    def test_beside_a_second_root_the_path_begins_with_the_model(self) -> None:
        net, loss = model(), nn.MSELoss()
        with flopcount.FlopCounter() as counter:
            loss(net(X), torch.ones(4, 2))
        report = counter.report()
        assert not faults(flop_budget(modules={"Sequential.0": "64 MAC"}), report)
        (fault,) = faults(flop_budget(modules={"0": "64 MAC"}), report)
        assert fault.endswith("matches '0'; did you mean 'Sequential.0'?")

    def test_with_a_near_name_it_is_named(self) -> None:
        net = nn.ModuleDict({"encoder": nn.Linear(8, 2)})
        with flopcount.FlopCounter(net) as counter:
            net["encoder"](X)
        (fault,) = faults(flop_budget(modules={"encodr": "1 GMAC"}), counter.report())
        assert fault.endswith("did you mean 'encoder'?")


class TestUnknown:
    """A budget over an unknown cost is worth nothing."""

    @pytest.fixture
    def uncounted(self) -> Report:
        with torch.library._scoped_library("flopcount_budget", "DEF") as library:
            library.define("mystery(Tensor x) -> Tensor")
            library.impl("mystery", lambda x: x.clone(), "CPU")
            with flopcount.FlopCounter() as counter:
                torch.ops.flopcount_budget.mystery(X)
        return counter.report()

    def test_an_uncounted_op_breaks_a_budget(self, uncounted: Report) -> None:
        (fault,) = faults(flop_budget("1 GFLOP"), uncounted)
        assert fault.startswith("flopcount_budget.mystery is uncounted (1 call)")
        assert not faults(flop_budget("1 GFLOP", strict=False), uncounted)

    @pytest.mark.filterwarnings("ignore::flopcount.UnwatchedThreadWarning")
    def test_so_does_a_thread_that_was_not_watched(self) -> None:
        net = model()
        with flopcount.FlopCounter(net) as counter:
            thread = threading.Thread(target=net, args=(X,), name="loader")
            thread.start()
            thread.join()
        (fault,) = faults(flop_budget("1 GFLOP"), counter.report())
        assert "ran in thread 'loader'" in fault


@pytest.mark.parametrize(
    ("total", "arguments", "error", "says"),
    [
        ((), {}, ValueError, "a budget needs a bound, such as '8.2 GFLOP'"),
        (("1 MBxyz",), {}, ValueError, "such as '8.2 GFLOP', got '1 MBxyz'"),
        ((8,), {}, TypeError, "such as '8.2 GFLOP', got 8"),
        ((), {"forward": 8}, TypeError, "got 8"),
        ((), {"equal": True}, TypeError, "got True"),
        ((), {"forwards": "1 FLOP"}, TypeError, "unexpected keyword argument 'forwards'"),
        ((), {"modules": "1 FLOP"}, TypeError, "modules must be like {'encoder.*': '1 GMAC'}"),
        ((), {"modules": {"a": 1}}, TypeError, "got 1"),
        ((), {"modules": {1: "1 FLOP"}}, TypeError, "modules must be like {'encoder.*': '1 GMAC'}"),
        ((), {"modules": {}}, ValueError, "a budget needs a bound"),
        (("1 FLOP",), {"strict": 1}, TypeError, "strict must be True or False, got 1"),
        (("1 FLOP",), {"reading": "mfu"}, ValueError, "'matmul', 'exact', 'valid', got 'mfu'"),
        (("1 FLOP",), {"reading": ["matmul"]}, ValueError, "'valid', got ['matmul']"),
        (("1 MAC",), {"reading": "exact"}, ValueError, "'exact' reads FLOP; no bound is in it"),
    ],
    ids=str,
)
def test_what_is_no_budget_is_refused(
    total: tuple[str, ...], arguments: dict[str, str], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=re.escape(says)):
        flop_budget(*total, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("count", "limit", "exact", "slack"),
    [
        (4, 5, False, 0.25),
        (5, 4, False, -0.2),
        (4, 5, True, -0.25),
        (0, 0, False, 0.0),
        (0, 1, False, math.inf),
        (0, 1, True, -math.inf),
    ],
)
def test_slack_is_a_part_of_what_is_needed(
    count: int, limit: int, exact: bool, slack: float
) -> None:
    assert Measure("total", count, limit, "FLOP", exact).slack == slack


def test_the_markers_line_has_its_signature_and_what_it_is_for() -> None:
    assert marker_line() == (
        "flop_budget(*total, forward=None, backward=None, recompute=None, optimizer=None, "
        "other=None, modules=None, equal=None, reading=None, strict=True): "
        'The most that a test may cost, such as "8.2 GFLOP"; exactly that much passes.'
    )
