"""A layer that its caller does not own has the name that its nearest owner gives it."""

from __future__ import annotations

import weakref
from collections import OrderedDict, defaultdict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flopcount import FlopCounter, Report
from flopcount.attribution import tree as trees
from tests.attribution.units import U, batch, linear, paths, units
from tests.programs import PROGRAMS, owners
from tests.programs.catalogue import Composed

HANDED = [name for name, program in PROGRAMS.items() if program.build.__module__ == owners.__name__]


@pytest.mark.parametrize("name", HANDED)
def test_it_has_this_name_without_a_given_model_too(name: str) -> None:
    model, step = PROGRAMS[name].made("cpu", lambda: counter)
    counter = FlopCounter()
    with counter:
        step()
    report = counter.report()
    top = "" if report.model_path else f"{type(model).__name__}."
    for path, row in PROGRAMS[name].rows.items():
        known = f"{top}{path}".rstrip(".")
        path = path if path in {"Around"} else known
        assert sum(units(report[path]).values()) == row.total, path
        assert report[path].calls == row.calls, path


def counted(model: nn.Module, *args: Any, given: nn.Module | None = None) -> Report:
    with FlopCounter(given) as counter:
        model(*args).sum().backward()
    return counter.report()


class Keeper(nn.Module):
    """Runs its layers, wherever it keeps them, one after the other."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers(self.kept):
            x = layer(x)
        return x

    def layers(self, kept: Any) -> Any:
        if isinstance(kept, nn.Module):
            return [kept]
        items = kept.values() if isinstance(kept, dict) else kept
        return [layer for item in items for layer in self.layers(item)]


Pair = namedtuple("Pair", "first second")


class TestContainersThatAreAttributes:
    @pytest.mark.parametrize(
        ("kept", "names"),
        [
            ([linear(), linear()], ["0", "1"]),
            ((linear(),), ["0"]),
            ({"a": linear(), 7: linear()}, ["a", "7"]),
            ({"": linear()}, ["''"]),
            (OrderedDict(a=linear()), ["a"]),
            (defaultdict(list, a=[linear()]), ["a", "a.0"]),
            (Pair(linear(), linear()), ["0", "1"]),
            ([[linear()], {"a": (linear(),)}], ["0", "0.0", "1", "1.a", "1.a.0"]),
        ],
    )
    def test_name_the_layers_in_them(self, kept: Any, names: list[str]) -> None:
        report = counted(Keeper(kept), batch())
        assert paths(report) == ["", "kept", *(f"kept.{name}" for name in names)]
        assert report["kept"].type == type(kept).__name__
        assert units(report["kept"]) == units(report.model)

    def test_have_the_parameters_of_their_layers(self) -> None:
        report = counted(Keeper([linear(), linear()]), batch())
        assert (report["kept.0"].params, report["kept"].params) == (64, 128)
        assert report.model.params == 0  # model.parameters() has none of them

    def test_are_looked_for_only_if_nobody_registered_the_layer(self) -> None:
        model = Keeper(None)
        model.kept = [linear(), linear()]
        model.late = model.kept[1]
        assert paths(counted(model, batch())) == ["", "kept", "kept.0", "late"]

    def test_count_in_modules_that_do_not_run(self) -> None:
        body = nn.Module()
        body.layers = [linear()]
        model = Composed(lambda self, x: self.body.layers[0](x), body=body)
        assert paths(counted(model, batch())) == ["", "body", "body.layers", "body.layers.0"]

    def test_lead_on_to_what_their_modules_own(self) -> None:
        model = Composed(lambda self, x: self.kept[0][1](x))
        model.kept = [nn.Sequential(nn.ReLU(), linear())]
        assert paths(counted(model, batch())) == ["", "kept", "kept.0", "kept.0.1"]

    def test_name_a_submodule_that_is_called_by_itself(self) -> None:
        model = Keeper([linear()])
        report = counted(model.kept[0], batch(), given=model)
        assert units(report["kept.0"]) == units(report.model) == {"forward": 1, "backward": 1}

    def test_may_change(self) -> None:
        model = Keeper([linear(), linear()])
        with FlopCounter(model) as counter:
            model(batch())
            model.kept.insert(0, linear())
            model(batch())
        report = counter.report()
        assert units(report.model) == {"forward": 5}
        assert set(paths(report)) == {"", "kept", "kept.0", "kept.1"}

    def test_may_hold_data_and_lead_back(self) -> None:
        model = Keeper([linear()])
        model.data, model.around = list(range(100_000)), [model]
        model.around.append(model.around)
        assert units(counted(model, batch())["kept.0"]) == {"forward": 1, "backward": 1}

    def test_are_read_without_methods_of_their_own(self) -> None:
        class Careful(list):  # type: ignore[type-arg]
            def __iter__(self) -> Any:
                raise AssertionError("nobody asked for this")

            __getitem__ = __len__ = __iter__

        model = Composed(lambda self, x: layer(x))
        layer = linear()
        model.kept = Careful([layer])
        assert "kept.0" in counted(model, batch())


def test_a_module_that_is_hidden_is_a_root() -> None:
    hidden = linear()
    model = Composed(lambda self, x: self.head(hidden(vars(self)["teacher"](x))), head=linear())
    object.__setattr__(model, "teacher", linear())
    report = counted(model, batch(), given=model)
    assert paths(report) == ["", "head", "Linear", "Linear#2"]
    assert units(report.model) == {"forward": 1, "backward": 2}


def test_a_helper_of_two_models_calls_the_layers_of_each() -> None:
    helper = owners.calling()
    model, other = (Composed(lambda self, x: helper(x, self.a), a=linear()) for _ in range(2))
    with FlopCounter() as counter:
        for _ in range(2):
            model(batch())
            other(batch())
            helper(batch(), linear())
    report = counter.report()
    assert {path: report[path].calls for path in report if path} == {
        "Composed": 2,
        "Composed.a": 2,
        "Composed#2": 6,  # the helper, called by both and by hand
        "Composed#3": 2,
        "Composed#3.a": 2,
        "Linear": 2,
    }


def test_a_layer_that_is_called_outside_of_its_model_too() -> None:
    """Outside, nobody on the stack owns it; inside, the model does."""
    model = Composed(lambda self, x: self.helper(x, self.a), a=linear(), helper=owners.calling())
    with FlopCounter() as counter:
        for _ in range(2):
            model.a(batch())
            model(batch())
    report = counter.report()
    assert {path: report[path].calls for path in report if path} == {
        "Linear": 2,
        "Composed": 2,
        "Composed.helper": 2,
        "Composed.a": 2,
    }


def test_it_is_entered_again_by_another_owner() -> None:
    """It is on the stack already, so it keeps its row; called by that owner alone it has another.

    ``a`` calls ``b`` only while ``depth`` is left, and ``b`` owns ``a``, too.
    """

    def run(self: Any, x: Tensor, depth: int) -> Tensor:
        x = self.layer(x)
        return b(x, depth - 1) if depth else x

    a = Composed(run, layer=linear())
    b = Composed(lambda self, x, depth: self.a(x, depth), a=a)
    model = Composed(lambda self, x: self.b(self.a(x, 1), 0), a=a, b=b)
    report = counted(model, batch())
    calls = {path: report[path].calls for path in report if path != "<block>"}
    assert calls == {"": 1, "a": 2, "a.layer": 2, "b": 2, "b.a": 1, "b.a.layer": 1}
    assert [report[path].path for path in ("a", "b.a")] == ["a", "b.a"]


class TestTheGivenModel:
    def test_has_its_row_in_a_wrapper_that_nobody_knows(self) -> None:
        model = nn.Sequential(linear(), linear())
        report = counted(owners.Around(model), batch(), given=model)
        assert paths(report) == ["", "0", "1", "Around"]
        assert units(report.model) == {"forward": 2, "backward": 3}

    def test_has_its_row_inside_a_larger_one(self) -> None:
        model = nn.Sequential(linear(), nn.Sequential(linear(), linear()))
        model.forward = lambda x: model[1][1](model[1](model[0](x)))  # type: ignore[method-assign]
        report = counted(model, batch(), given=model[1])
        assert paths(report) == ["", "0", "1", "Sequential#2", "Sequential#2.0"]
        assert units(report.model) == {"forward": 3, "backward": 6}
        assert report["1"].calls == 2


@pytest.mark.parametrize("is_reset", [False, True])
def test_layers_that_are_attached_later_have_names_from_then_on(is_reset: bool) -> None:
    """Modules that come and go are looked for once in a call of the model, and not once for all."""

    def run(self: Any, x: Tensor) -> Tensor:
        x = helper(x, nn.Linear(8, 8, bias=False))
        x = helper(x, nn.Linear(8, 8, bias=False))
        return helper(x, layers[-1])

    helper, layers = owners.calling(), [linear()]
    model = Composed(run)
    with FlopCounter(model) as counter:
        model(batch())
        if is_reset:
            counter.reset()
        layers.append(linear())
        model.kept = layers
        model(batch())
    report = counter.report()
    assert units(report["kept.1"]) == units(report.model) == {"forward": 1}
    assert units(report.root) == {"forward": 3 if is_reset else 6}


def test_a_model_that_called_such_modules_is_let_go() -> None:
    model = nn.Sequential(Composed(lambda self, x: nn.Softmax(dim=-1)(x)))
    alive = weakref.ref(model)
    with FlopCounter() as counter:
        model(batch())
        del model
        assert alive() is None
    assert counter.report()["Softmax"].calls == 1


def test_modules_that_come_and_go_in_a_large_model_are_not_looked_for_in_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = []
    held_below = trees.held_below
    monkeypatch.setattr(
        trees, "held_below", lambda owner: looked.append(owner) or held_below(owner)
    )

    def run(self: Any, x: Tensor) -> Tensor:
        return nn.Softmax(dim=-1)(self.layer(x))

    model = nn.Sequential(*(Composed(run, layer=linear()) for _ in range(9)))
    with FlopCounter(model) as counter:
        model(batch())
        model(batch())
    assert counter.report()["Softmax"].calls == 18
    assert looked == [model, model]


def test_as_many_callers_as_there_may_be() -> None:
    """Each is a place of its own up to a limit; beyond it the layer still has its name."""
    helper, number = owners.calling(), trees.DETOUR_LIMIT + 9
    models = [Composed(lambda self, x: helper(x, self.a), a=linear()) for _ in range(number)]
    model = Composed(
        lambda self, x: sum(m(x) for m in self.models), models=nn.ModuleList(models), helper=helper
    )
    report = counted(model, batch())
    assert report["helper"].calls == number
    assert all(report[f"models.{index}.a"].calls == 1 for index in range(number))
    assert report.model.phases["forward"].matmul_flops == number * U
    assert report.model.total.matmul_flops == report.root.total.matmul_flops


def test_layers_of_a_random_order_do_not_let_a_counter_grow() -> None:
    """Each calls the next one, in an order of its own each time."""
    torch.manual_seed(0)

    class Next(nn.Module):
        def forward(self, x: Tensor, plan: list[Next]) -> Tensor:
            return plan[0](x, plan[1:]) if plan else x

    model = Composed(
        lambda self, x: self.parts[0](x, [self.parts[i] for i in torch.randperm(8)]),
        parts=nn.ModuleList(Next() for _ in range(8)),
    )
    with FlopCounter(model) as counter:
        for _ in range(200):
            model(batch())
    scopes = list(counter._attribution.tree.scopes())
    assert len(scopes) == 1 + 1 + 1 + 8
    assert max(len(scope._detours) for scope in scopes) <= trees.DETOUR_LIMIT
