"""The report: what can be asked of it, and that it survives being written down."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import flopcount
from flopcount import Cost, FlopCounter, Report
from flopcount.attribution.phase import PHASES
from flopcount.cost import ZERO
from flopcount.errors import FlopcountError, UnknownModuleError
from flopcount.report.tree import Module, Row
from tests.invariants import check

N, D, H, M = 4, 8, 16, 2


class Net(nn.Module):
    """D → H → ReLU → M, with the two layers in a Sequential called ``body``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(D, H), nn.ReLU())
        self.head = nn.Linear(H, M)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.fixture(scope="module")
def report() -> Report:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, foreach=False)
    with FlopCounter(model) as counter:
        loss = model(torch.ones(N, D)).square().sum()
        loss.backward()
        optimizer.step()
    return counter.report()


BODY = N * D * H
HEAD = N * H * M
PARAMETERS = (D * H + H) + (H * M + M)


def test_it_keeps_every_promise(report: Report) -> None:
    check(report, plain=True)


class TestTotals:
    def test_macs(self, report: Report) -> None:
        # the input needs no gradient: one product in body's backward, two in head's
        assert report.total.macs == 2 * BODY + 3 * HEAD

    def test_phases(self, report: Report) -> None:
        assert list(report.phases) == list(PHASES)
        assert report.phases["forward"].macs == BODY + HEAD
        assert report.phases["backward"].macs == BODY + 2 * HEAD
        assert report.phases["recompute"] == ZERO
        # one product and one addition for each parameter
        assert report.phases["optimizer"].flops == 2 * PARAMETERS

    def test_other_arithmetic_of_the_forward_pass(self, report: Report) -> None:
        forward = report.phases["forward"]
        # two biases, the squares of the output and their sum
        assert forward.arith == N * H + N * M + N * M + (N * M - 1)
        assert forward.compare == N * H  # ReLU

    def test_model_flops_are_the_products_of_forward_and_backward(self, report: Report) -> None:
        assert report.model_flops == report.hardware_flops == 2 * (2 * BODY + 3 * HEAD)

    def test_hardware_flops_include_what_is_recomputed(self) -> None:
        layer = nn.Linear(D, H, bias=False)
        with FlopCounter() as counter:
            x = torch.ones(N, D, requires_grad=True)
            checkpoint(layer, x, use_reentrant=True).sum().backward()
        counted = counter.report()
        assert counted.model_flops == 3 * 2 * BODY
        assert counted.hardware_flops == 4 * 2 * BODY

    def test_products_of_an_optimizer_are_no_model_flops(self) -> None:
        rows = tuple(
            Row("", phase, "aten.mm", "float32", 1, Cost(macs=macs))
            for phase, macs in zip(PHASES, (1, 10, 100, 1000, 10_000), strict=True)
        )
        counted = Report((Module("", "", "", 0, 0),), rows)
        assert counted.model_flops == 2 * 11
        assert counted.hardware_flops == 2 * 11_111

    @pytest.mark.parametrize("dtype", ["int8", "int64", "quint8", "bool"])
    def test_integer_products_are_no_flops(self, dtype: str) -> None:
        row = Row("", "forward", "aten.mm", dtype, 1, Cost(macs=5))
        counted = Report((Module("", "", "", 0, 0),), (row,))
        assert counted.model_flops == counted.hardware_flops == 0
        assert counted.total.macs == 5

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn", "complex64"])
    def test_floating_point_products_are(self, dtype: str) -> None:
        row = Row("", "forward", "aten.mm", dtype, 1, Cost(macs=5))
        assert Report((Module("", "", "", 0, 0),), (row,)).model_flops == 10


class TestModules:
    def test_the_tree(self, report: Report) -> None:
        paths = [node.path for node in report.root.walk()]
        assert paths == ["<block>", "", "body", "body.0", "body.1", "head"]
        types = [node.type for node in report.model.walk()]
        assert types == ["Net", "Sequential", "Linear", "ReLU", "Linear"]
        names = [node.name for node in report.model.walk()]
        assert names == ["Net", "body", "0", "1", "head"]

    def test_parameters_include_the_childrens(self, report: Report) -> None:
        assert report.model.params == PARAMETERS
        assert report["body"].params == report["body.0"].params == D * H + H
        assert report["body.1"].params == 0

    def test_own_leaves_the_children_out(self, report: Report) -> None:
        assert report.model.own == report["body"].own == ZERO
        assert report["body"].total == report["body.0"].own + report["body.1"].own

    def test_what_ran_outside_every_module_is_the_roots_own(self, report: Report) -> None:
        own = report.root.own
        assert own.macs == 0
        # the loss, forward: squares and their sum; backward: 2·y, times the gradient
        loss = N * M + (N * M - 1) + 2 * N * M
        assert own.flops - report.phases["optimizer"].flops == loss

    def test_gradients(self, report: Report) -> None:
        assert list(report.model.gradients) == ["input", "weight", "bias"]
        assert report["body.0"].gradients["input"] == ZERO
        assert report["body.0"].gradients["weight"] == Cost(macs=BODY, dots=D * H)
        assert report["body.0"].gradients["bias"] == Cost(arith=H * (N - 1))
        assert report.model.gradients["weight"].macs == BODY + HEAD
        # of the input's: head's product, and ReLU's selects
        assert report.model.gradients["input"] == Cost(macs=HEAD, dots=N * H, compare=N * H)

    def test_by_module(self, report: Report) -> None:
        costs = report.by_module()
        assert list(costs) == [node.path for node in report.root.walk()]
        assert costs["body"] == report["body"].total
        assert costs["<block>"] == report.total

    def test_getitem_of_nothing_names_what_is_near(self, report: Report) -> None:
        with pytest.raises(
            UnknownModuleError, match=r"no module 'body\.o' ran.*'body\.0'"
        ) as caught:
            report["body.o"]
        assert isinstance(caught.value, KeyError)
        assert isinstance(caught.value, FlopcountError)
        assert not str(caught.value).startswith('"')  # no repr around the message

    def test_getitem_of_something_far_names_nothing(self, report: Report) -> None:
        with pytest.raises(UnknownModuleError, match=r"^no module 'qqqqqq' ran$"):
            report["qqqqqq"]

    def test_a_model_that_did_not_run_is_there(self) -> None:
        with FlopCounter(Net()) as counter:
            torch.ones(3) + 1
        counted = counter.report()
        assert (counted.model.name, counted.model.calls, counted.model.total) == ("Net", 0, ZERO)

    def test_an_empty_report(self) -> None:
        counted = FlopCounter().report()
        assert counted.total == ZERO
        assert counted.model is counted.root
        assert counted.rows() == []

    def test_children_keep_the_order_of_their_first_call(self) -> None:
        model = nn.ModuleDict({name: nn.Identity() for name in "abc"})
        with FlopCounter(model) as counter:
            for name in "cab":
                model[name](torch.ones(1))
        assert [node.name for node in counter.report().model.children] == ["c", "a", "b"]


class TestTables:
    def test_by_operator(self, report: Report) -> None:
        costs = report.by_operator()
        assert costs["aten.addmm"].macs == BODY + HEAD
        assert costs["aten.mm"].macs == BODY + 2 * HEAD
        assert costs["aten.relu"].compare == N * H
        flops = [cost.flops for cost in costs.values()]
        assert flops == sorted(flops, reverse=True)

    def test_by_dtype(self, report: Report) -> None:
        assert report.by_dtype() == {"float32": report.total}

    def test_by_dtype_tells_integers_apart(self) -> None:
        with FlopCounter() as counter:
            torch.ones(3, 4) @ torch.ones(4, 5)
            torch.ones(3, 4, dtype=torch.int32) @ torch.ones(4, 5, dtype=torch.int32)
            torch.ones(3, dtype=torch.int64) + 1
        costs = counter.report().by_dtype()
        assert costs["float32"].macs == costs["int32"].macs == 3 * 4 * 5
        assert costs["int64"].flops == 0
        assert costs["int64"].bytes > 0

    def test_by_module_and_operator(self, report: Report) -> None:
        costs = report.by_module_and_operator()
        assert list(costs) == list(report.by_module())
        assert costs["head"]["aten.addmm"].macs == HEAD
        assert costs["body"]["aten.addmm"].macs == BODY
        assert costs[""]["aten.addmm"].macs == BODY + HEAD
        for path, sums in costs.items():
            assert sum(sums.values(), ZERO) == report[path].total

    def test_rows_are_plain_and_complete(self, report: Report) -> None:
        rows = report.rows()
        assert {type(value) for row in rows for value in row.values()} <= {str, int, bool}
        (row,) = [r for r in rows if (r["module"], r["op"]) == ("head", "aten.addmm")]
        expected = {
            "module": "head",
            "type": "Linear",
            "phase": "forward",
            "op": "aten.addmm",
            "dtype": "float32",
            "calls": 1,
            "uncounted": 0,
            "flops": 2 * HEAD + N * M,
            "macs": HEAD,
            "dots": N * M,
            "void_macs": 0,
            "arith": N * M,
            "compare": 0,
            "special": 0,
            "read": 4 * (M + N * H + H * M),
            "written": 4 * N * M,
        }
        assert {name: row[name] for name in expected} == expected

    def test_uncounted_adds_up_over_modules(self) -> None:
        rows = (
            Row("", "forward", "lib.a", "float32", 2, ZERO, uncounted=2),
            Row("", "backward", "lib.a", "float32", 3, ZERO, uncounted=3),
            Row("", "forward", "lib.b", "float32", 1, ZERO),
        )
        assert Report((Module("", "", "", 0, 0),), rows).uncounted == {"lib.a": 5}

    def test_nothing_is_uncounted_in_a_plain_step(self, report: Report) -> None:
        assert report.uncounted == {}


class TestValue:
    def test_it_cannot_be_changed(self, report: Report) -> None:
        with pytest.raises(FrozenInstanceError):
            report.entries = ()  # type: ignore[misc]
        with pytest.raises(FrozenInstanceError):
            report.model.calls = 3  # type: ignore[misc]

    def test_equal_programs_have_equal_reports(self) -> None:
        first, second = (flopcount.count(Net(), torch.ones(N, D)) for _ in range(2))
        assert first == second
        assert first != flopcount.count(Net(), torch.ones(N + 1, D))


class TestJson:
    def test_it_comes_back_as_it_was(self, report: Report) -> None:
        again = Report.from_json(report.to_json())
        assert again == report
        assert again.to_json() == report.to_json()
        assert again.rows() == report.rows()
        assert again["body.0"].gradients == report["body.0"].gradients

    def test_counts_beyond_a_floats_precision_are_exact(self) -> None:
        row = Row("", "forward", "aten.mm", "float32", 1, Cost(macs=2**70 + 1))
        huge = Report((Module("", "", "", 0, 0),), (row,))
        assert Report.from_json(huge.to_json()).total.macs == 2**70 + 1

    def test_uncounted_ops_and_no_model_come_back(self) -> None:
        row = Row("", "forward", "lib.a", "float32", 2, ZERO, uncounted=2)
        counted = Report((Module("", "", "", 0, 0),), (row,), None)
        assert Report.from_json(counted.to_json()) == counted

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("", id="nothing"),
            pytest.param("not json", id="no JSON"),
            pytest.param("[1, 2]", id="a list"),
            pytest.param("{}", id="no schema"),
            pytest.param('{"schema": "flopcount.report/999"}', id="a later schema"),
            pytest.param('{"schema": "something else"}', id="something else"),
        ],
    )
    def test_what_is_no_report_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"report of schema|Expecting value|line 1"):
            Report.from_json(text)

    @pytest.mark.parametrize("damage", ["modules", "rows", "model", "cost", "a new field"])
    def test_a_damaged_report_is_refused(self, report: Report, damage: str) -> None:
        document: dict[str, Any] = json.loads(report.to_json())
        if damage == "cost":
            document["rows"][0]["cost"] = {"flops": 3}
        elif damage == "a new field":
            document["rows"][0]["colour"] = "red"
        else:
            del document[damage]
        with pytest.raises(ValueError, match="damaged"):
            Report.from_json(json.dumps(document))

    @pytest.mark.parametrize(
        ("part", "field", "value"),
        [
            ("rows", "phase", "sideways"),
            ("rows", "module", "nowhere"),
            ("rows", "calls", "a"),
            ("rows", "gradients", {"z": {}}),
            ("modules", "params", 1.5),
        ],
    )
    def test_what_no_report_holds_is_refused(
        self, report: Report, part: str, field: str, value: Any
    ) -> None:
        document: dict[str, Any] = json.loads(report.to_json())
        document[part][0][field] = value
        with pytest.raises(ValueError, match="damaged"):
            Report.from_json(json.dumps(document))

    def test_a_report_without_its_block_is_refused(self, report: Report) -> None:
        document: dict[str, Any] = {**json.loads(report.to_json()), "modules": []}
        with pytest.raises(ValueError, match="damaged"):
            Report.from_json(json.dumps(document))

    def test_the_refusal_names_both_schemas(self, report: Report) -> None:
        document: dict[str, Any] = json.loads(report.to_json())
        known, document["schema"] = document["schema"], "flopcount.report/999"
        with pytest.raises(ValueError, match=f"{known}.*flopcount.report/999"):
            Report.from_json(json.dumps(document))
