"""A module that is registered under several names has one row, and each name finds it."""

from __future__ import annotations

import json

import pytest
from torch import nn

from flopcount import FlopCounter, Report, UnknownModuleError
from tests.attribution.units import batch, linear, paths, units
from tests.programs.catalogue import Composed


def both_names() -> nn.Module:
    """``b`` is ``a`` again, with two layers in it, of which one is registered twice."""
    layer = linear()
    shared = nn.Sequential(layer, layer)
    return Composed(lambda self, x: self.b(self.a(x)), a=shared, b=shared)


def counted(model: nn.Module, given: nn.Module | None = None) -> Report:
    with FlopCounter(given) as counter:
        model(batch()).sum().backward()
    return counter.report()


def test_the_second_name_finds_the_row() -> None:
    report = counted(both_names())
    assert paths(report) == ["", "a", "a.0"]
    assert report["b"] is report["a"]
    assert report["a"].other_paths == ("b",)
    assert (report["a"].calls, units(report["b"])) == (2, {"forward": 4, "backward": 7})


def test_it_leads_to_what_is_below() -> None:
    report = counted(both_names())
    assert report["b.0"] is report["b.1"] is report["a.1"] is report["a.0"]
    assert report["a.0"].other_paths == ("a.1",)
    assert "b.1" in report
    assert "b.2" not in report
    with pytest.raises(UnknownModuleError, match=r"no module 'b.2' ran"):
        report["b.2"]


def test_rows_and_tables_name_it_once() -> None:
    report = counted(both_names())
    assert list(report) == ["<block>", "", "a", "a.0"]
    assert list(report.by_module()) == list(report)
    table = report.table()
    assert "\n  a (also b) " in table
    assert "\n    0 (also a.1) " in table


def test_a_layer_with_many_names_says_how_many() -> None:
    layer = linear()
    report = counted(nn.Sequential(*[layer] * 12))
    assert report["0"].other_paths == tuple(map(str, range(1, 12)))
    assert report["11"].calls == 12
    assert "\n  0 (also 1 and 10 more) " in report.table()


def test_a_list_and_an_attribute() -> None:
    layers = nn.ModuleList([linear(), linear()])
    model = Composed(lambda self, x: self.last(self.layers[0](x)), layers=layers, last=layers[1])
    report = counted(model)
    assert report["last"].other_paths == ("layers.1",)
    assert report["layers.1"].path == "last"


def test_owners_with_rows_of_their_own_keep_them() -> None:
    shared = linear()
    p, q, r = (Composed(lambda self, x: self.layer(x), layer=shared) for _ in "pqr")
    model = Composed(lambda self, x: self.q(self.p(x)), p=p, q=q, r=r)
    report = counted(model)
    assert [report[path].path for path in ("p.layer", "q.layer")] == ["p.layer", "q.layer"]
    assert "r.layer" not in report  # which of the two would it be?
    model.run = lambda self, x: self.q(x)
    report = counted(model)
    assert report["r.layer"].path == report["p.layer"].path == "q.layer"
    assert report["q.layer"].other_paths == ("p.layer", "r.layer")


def test_a_name_beside_a_row_is_told_though_there_are_other_rows() -> None:
    shared = linear()
    p = Composed(lambda self, x: self.b(self.a(x)), a=shared, b=shared)
    model = Composed(lambda self, x: self.p(self.first(x)), first=shared, p=p)
    report = counted(model)
    assert report["p.b"].path == "p.a"
    assert report["first"].other_paths == ()


def test_a_module_that_owns_itself_has_a_name_for_it() -> None:
    model = nn.Sequential(linear())
    object.__setattr__(model, "_modules", {**model._modules, "me": model})
    model.forward = lambda x: model[0](x)  # type: ignore[method-assign]
    report = counted(model)
    assert report["me.me.0"].path == "0"
    assert report["me"] is report.model


def test_wrappers_are_left_out_of_it() -> None:
    layer = nn.DataParallel(nn.Sequential(linear()))
    report = counted(Composed(lambda self, x: self.b(x), a=layer, b=layer))
    assert report["b.0"].path == "a.0"


def test_tied_weights_are_layers_of_their_own() -> None:
    model = nn.Sequential(linear(), linear())
    model[1].weight = model[0].weight
    report = counted(model)
    assert [report[path].other_paths for path in ("0", "1")] == [(), ()]


def test_json_keeps_them_and_older_files_can_be_read() -> None:
    report = counted(both_names())
    assert Report.from_json(report.to_json()) == report
    document = json.loads(report.to_json())
    del document["models"]
    for module in document["modules"]:
        del module["other_paths"]
    older = Report.from_json(json.dumps(document))
    assert older.total == report.total
    assert "b" not in older


def test_they_change_no_difference() -> None:
    assert not counted(both_names()).diff(counted(both_names()))
