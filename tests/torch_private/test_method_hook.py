"""What a hook on a method promises: it sees each call, and nobody else sees the hook."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flopcount.torch_private.method_hook import MethodHook, MethodHooks, Methods


class Engine:
    """What is hooked."""

    def __init__(self, power: int = 1) -> None:
        self.power = power

    def run(self, x: int = 0) -> int:
        """Multiply."""
        if x < 0:
            raise ValueError(x)
        warnings.warn("it runs", stacklevel=2)
        return self.power * x

    def __call__(self, x: int) -> int:
        return self.run(x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Engine) and other.power == self.power

    __hash__ = None  # type: ignore[assignment]


class Turbo(Engine):
    """A class that overrides what is hooked, and calls it."""

    def run(self, x: int = 0) -> int:
        return 10 * super().run(x)


@pytest.fixture
def calls() -> Iterator[list[Engine]]:
    """The engines whose ``run`` was called."""
    calls: list[Engine] = []
    hook = MethodHook(Engine, "run", calls.append)
    hook.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield calls
    hook.remove()
    assert isinstance(Engine.__dict__["run"], types.FunctionType)


WAYS: dict[str, Callable[[Engine], Any]] = {
    "a call": lambda engine: engine.run(2),
    "by keyword": lambda engine: engine.run(x=2),
    "from another method": lambda engine: engine(2),
    "a partial": lambda engine: partial(engine.run, 2)(),
    "map": lambda engine: list(map(engine.run, [2])),
    "from a subclass": lambda engine: Turbo().run(2),
    "getattr": lambda engine: getattr(engine, "run")(2),  # noqa: B009
}


@pytest.mark.parametrize("way", WAYS)
def test_each_call_is_seen_once(way: str, calls: list[Engine]) -> None:
    WAYS[way](Engine())
    assert calls == [Engine()]


def test_a_kept_method_is_seen_at_each_call(calls: list[Engine]) -> None:
    run = Engine(3).run
    assert [run(1), run(2)] == [3, 6]
    assert calls == [Engine(3), Engine(3)]


@pytest.mark.filterwarnings("ignore:it runs")
def test_a_kept_method_is_seen_while_the_hook_is_installed() -> None:
    calls: list[Engine] = []
    hook = MethodHook(Engine, "run", calls.append)
    hook.install()
    run = Engine().run
    hook.remove()
    run(0)
    assert calls == []
    hook.install()
    run(0)
    hook.remove()
    assert len(calls) == 1


LOOKS: dict[str, Callable[[Any], Any]] = {
    "hasattr": lambda engine: hasattr(engine, "run"),
    "callable": lambda engine: callable(engine.run),
    "members": lambda engine: [name for name, _ in inspect.getmembers(engine)],
    "type": lambda engine: (
        isinstance(engine.run, types.MethodType) and inspect.ismethod(engine.run)
    ),
    "signature": lambda engine: inspect.signature(engine.run),
    "source": lambda engine: inspect.getsource(engine.run),
    "doc": lambda engine: inspect.getdoc(engine.run),
    "name": lambda engine: (engine.run.__name__, engine.run.__qualname__, engine.run.__module__),
    "self": lambda engine: engine.run.__self__ is engine,
    "function": lambda engine: engine.run.__func__ is Engine.run,
    "equality": lambda engine: (
        engine.run == engine.run,
        engine.run == Engine(2).run,
        hash(engine.run) == hash(engine.run),
    ),
    "class": lambda engine: Engine.run is type(engine).run and inspect.isfunction(Engine.run),
    "pickle": lambda engine: pickle.loads(pickle.dumps(engine.run)).__self__,
    "pickled class": lambda engine: pickle.loads(pickle.dumps(Engine.run)) is Engine.run,
    "deep copy": lambda engine: copy.deepcopy(engine.run).__self__,
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_at_it_is_no_call_and_sees_no_difference(look: str) -> None:
    calls: list[Engine] = []
    hook = MethodHook(Engine, "run", calls.append)
    engine = Engine(3)
    before = LOOKS[look](engine)
    hook.install()
    during = LOOKS[look](engine)
    hook.remove()
    assert during == before
    assert calls == []


def run_and_fail() -> list[Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Engine().run(1)
    try:
        Engine().run(-1)
    except ValueError as error:
        frames = traceback.extract_tb(error.__traceback__)
    return [(w.filename, w.lineno) for w in caught] + [(f.name, f.lineno) for f in frames]


def test_it_adds_no_frame(calls: list[Engine]) -> None:
    assert [name for name, _ in run_and_fail()[1:]] == ["run_and_fail", "run"]
    assert run_and_fail()[0][0] == __file__
    assert len(calls) == 4


def test_an_error_of_the_hook_stops_the_call() -> None:
    def refuse(engine: Engine) -> None:
        raise PermissionError

    hook = MethodHook(Engine, "run", refuse)
    hook.install()
    with pytest.raises(PermissionError):
        Engine().run()
    hook.remove()


def test_a_method_that_the_program_replaces_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = MethodHook(Engine, "run", lambda engine: None)
    hook.install()
    monkeypatch.setattr(Engine, "run", lambda self: "the program's")
    hook.remove()
    assert Engine().run() == "the program's"  # type: ignore[comparison-overlap]  # replaced
    monkeypatch.undo()
    hook.remove()
    assert isinstance(Engine.__dict__["run"], types.FunctionType)


class TestMethodHooks:
    SOURCE = "class Engine:\n    def run(self): return 1\n"

    @pytest.fixture
    def library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """A library that can be imported."""
        (tmp_path / "engines_of_a_test.py").write_text(self.SOURCE)
        (tmp_path / "more_of_a_test.py").write_text("")
        monkeypatch.syspath_prepend(tmp_path)
        yield
        for name in ("engines_of_a_test", "more_of_a_test"):
            sys.modules.pop(name, None)

    def test_a_library_that_is_imported_later_is_hooked_then(self, library: None) -> None:
        calls: list[Any] = []
        methods = Methods("engines_of_a_test", "Engine", ("run", "run_of_another_version"))
        hooks = MethodHooks([(methods, calls.append)])
        finders = list(sys.meta_path)
        hooks.install()
        import engines_of_a_test  # type: ignore[import-not-found]
        import more_of_a_test  # type: ignore[import-not-found]  # noqa: F401  # at the next import

        assert engines_of_a_test.Engine().run() == 1
        hooks.remove()
        assert len(calls) == 1
        assert sys.meta_path == finders
        assert isinstance(engines_of_a_test.Engine.__dict__["run"], types.FunctionType)

    def test_what_is_not_there_is_left_alone(self) -> None:
        assert Methods("sys", "no.such.class", ("run",)).owner() is None
        assert Methods("sys", "path", ("run",)).owner() is None  # it is no class
        assert Methods("no_such_module", "Engine", ("run",)).owner() is None
