"""Several models in one counter: a root each, with a name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount import FlopCounter, Report, UnknownModuleError
from tests.attribution.units import batch, linear, paths, units
from tests.programs.catalogue import Composed


class Generator(nn.Sequential):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__(linear(), linear())


class Discriminator(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def trained(*models: Any, run: Any = None, **named: Any) -> Report:
    """A report of both models, one after the other: 2 U and 1 U, and 3 U and 2 U back."""
    first, second = run or models or models[0].values()
    with FlopCounter(*models, **named) as counter:
        second(first(batch())).sum().backward()
    return counter.report()


def test_they_are_named_by_their_classes() -> None:
    report = trained(Generator(), Discriminator())
    assert paths(report) == [
        *("Generator", "Generator.0", "Generator.1"),
        *("Discriminator", "Discriminator.layer"),
    ]
    assert units(report["Generator"]) == {"forward": 2, "backward": 3}
    assert units(report["Discriminator.layer"]) == {"forward": 1, "backward": 2}
    assert report.models == ("Generator", "Discriminator")


def test_of_one_class_they_are_numbered_as_they_are_given() -> None:
    first, second = linear(), linear()
    report = trained(second, first, run=(first, second))
    assert paths(report) == ["Linear", "Linear#2"]
    assert units(report["Linear"]) == {"forward": 1, "backward": 2}
    assert units(report["Linear#2"]) == {"forward": 1, "backward": 1}


def test_they_are_named_by_the_keys_of_a_dict() -> None:
    models = {"G": Generator(), "D": Discriminator()}
    report = trained(models, run=models.values())
    assert paths(report) == ["G", "G.0", "G.1", "D", "D.layer"]
    assert (report["G"].name, report["G"].type) == ("G", "Generator")
    assert units(report["D"]) == {"forward": 1, "backward": 2}
    assert str(report).splitlines()[2].startswith("G ")


def test_a_dict_may_name_one() -> None:
    model = Generator()
    with FlopCounter({"G": model}) as counter:
        model(batch())
    report = counter.report()
    assert paths(report) == ["G", "G.0", "G.1"]
    assert report.model is report["G"]


def test_the_model_of_several_is_an_error_that_names_them() -> None:
    report = trained(Generator(), Discriminator())
    with pytest.raises(UnknownModuleError, match=r"report\['Generator'\] or report\['Discrim"):
        _ = report.model
    assert "Generator, Discriminator: " in _html(report)


def _html(report: Report) -> str:
    from flopcount.report.render import html

    return html.render(report)


def test_json_keeps_their_names() -> None:
    report = trained(Generator(), Discriminator())
    again = Report.from_json(report.to_json())
    assert again == report
    with pytest.raises(UnknownModuleError, match="2 models"):
        _ = again.model


def test_one_that_did_not_run_has_a_row() -> None:
    generator = Generator()
    with FlopCounter({"G": generator, "D": Discriminator()}) as counter:
        generator(batch())
    report = counter.report()
    assert (report["D"].calls, report["D"].params, report["D"].total.macs) == (0, 64, 0)


def test_another_module_has_a_root_beside_them() -> None:
    models = {"Linear": Generator(), "D": Discriminator()}
    with FlopCounter(models) as counter:
        linear()(models["D"](models["Linear"](batch())))
    assert paths(counter.report())[-1] == "Linear#2"


def test_a_layer_that_two_of_them_own_is_in_that_which_calls_it() -> None:
    shared = linear()
    a, b = (Composed(lambda self, x: self.layer(x), layer=shared) for _ in range(2))
    with FlopCounter({"a": a, "b": b}) as counter:
        b(a(batch()))
        shared(batch())  # called by nobody: the first that owns it
    report = counter.report()
    assert {path: report[path].calls for path in paths(report)} == {
        "a": 1,
        "a.layer": 2,
        "b": 1,
        "b.layer": 1,
    }


def test_one_calls_another_that_it_does_not_own() -> None:
    """Each keeps its root, and what it runs is not in the other."""
    d = Discriminator()
    g = Composed(lambda self, x: d(self.layer(x)), layer=linear())
    with FlopCounter({"G": g, "D": d}) as counter:
        g(batch()).sum().backward()
    report = counter.report()
    assert units(report["G"]) == {"forward": 1, "backward": 1}
    assert units(report["D"]) == {"forward": 1, "backward": 2}


def test_a_module_that_owns_them_leaves_them_their_roots() -> None:
    """As a LightningModule does that trains both."""
    g, d = Generator(), Discriminator()
    both = Composed(lambda self, x: self.d(self.g(x)) + self.g[0](x), g=g, d=d)
    report = trained({"G": g, "D": d}, run=(both, nn.Identity()))
    assert units(report["G"]) == {"forward": 3, "backward": 4}
    assert units(report["D"]) == {"forward": 1, "backward": 2}
    assert report["G.0"].calls == 2


def test_wrappers_are_left_out() -> None:
    report = trained(nn.DataParallel(Generator()), Discriminator())
    assert paths(report)[0] == "Generator"


def test_counters_have_formulas_and_are_strict_beside_them() -> None:
    free = {torch.ops.aten.mm: lambda *args, out: flopcount.Cost()}
    report = trained(Generator(), Discriminator(), formulas=free, strict=True)
    assert report.models == ("Generator", "Discriminator")
    assert report.total.macs == 0


def test_the_model_may_be_named_as_an_argument() -> None:
    assert FlopCounter(model=linear()).report().model.type == "Linear"


MODEL = nn.Sequential(linear(), nn.Sequential(linear()))


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ([3], TypeError, r"model must be a torch.nn.Module, got int"),
        ([MODEL, 3], TypeError, r"model must be a torch.nn.Module, got int"),
        ([None, MODEL], TypeError, r"model must be a torch.nn.Module, got NoneType"),
        ([[MODEL]], TypeError, r"got list; several are FlopCounter\(a, b\)"),
        ([{"G": 3}], TypeError, r"model 'G' must be a torch.nn.Module, got int"),
        ([{3: MODEL}], TypeError, r"name of a model must be a string, got 3"),
        ([{"": MODEL}], ValueError, r"'' cannot name a model: take a word without dots"),
        ([{"a.b": MODEL}], ValueError, r"'a.b' cannot name a model"),
        ([{"unattributed": MODEL}], ValueError, r"cannot name a model"),
        ([{}], ValueError, r"a dict of at least one model"),
        ([{"a": MODEL}, MODEL], ValueError, r"nothing beside it"),
        ([MODEL, MODEL], ValueError, r"'Sequential' and 'Sequential#2' are one model"),
        ([MODEL, nn.DataParallel(MODEL)], ValueError, r"are one model; give it once"),
        ([MODEL, MODEL[1]], ValueError, r"'Sequential#2' is '1' of 'Sequential': give the whole"),
        ([{"p": MODEL[1][0], "w": MODEL}], ValueError, r"'p' is '1.0' of 'w': .* part at '1.0'"),
    ],
)
def test_bad_models_are_refused(models: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FlopCounter(*models)


def test_the_block_has_one_name_however_many_models_there_are() -> None:
    first, second = Generator(), Discriminator()
    with FlopCounter() as counter:
        second(first(batch()))
    named = trained({"G": first, "D": second}, run=(first, second))
    for report in (trained(first, second), named, counter.report()):
        assert report["<block>"] is report.root
        assert "<block>" in report


def test_a_model_that_only_the_counter_has_keeps_its_names() -> None:
    first, second = Generator(), Discriminator()
    with FlopCounter(nn.ModuleDict({"G": first, "D": second})) as counter:
        second(first(batch()))
    assert {"G", "G.0", "D.layer"} <= set(counter.report())
