"""Processes that a block starts: they run as if nobody counted, and the report names them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from flopcount import FlopCounter, Report, UnwatchedProcessWarning
from flopcount.counter.children import python_program
from flopcount.torch_private.modes import modes
from tests.counter.observation import Notes, assert_undisturbed
from tests.counter.units import PRODUCT, batch, ended_well, linear, mm, run_afresh
from tests.hooks import watchers

pytestmark = [
    pytest.mark.filterwarnings("ignore::flopcount.UnwatchedProcessWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of a fork beside other threads
]
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def work(x: int = 0) -> int:
    """What processes run; it can be pickled."""
    mm()
    return x


def run_in_child(answer: Callable[[], Any], counter: FlopCounter | None = None) -> Any:
    """What ``answer`` returns in a forked process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def child() -> None:
        there.send(answer())

    process = context.Process(target=child)
    process.start()
    there.close()  # so that a child that ends without an answer is noticed
    result = here.recv() if here.poll(60) else "no answer"
    assert ended_well(process)
    return result


def fork_a_child_that_counts() -> None:
    """Count in a forked process, backward, too."""

    def answer() -> Any:
        model = nn.Sequential(linear())
        with FlopCounter(model) as own:
            model(batch().requires_grad_()).sum().backward()
        report = own.report()
        return report["0"].phases["forward"].macs, report["0"].phases["backward"].macs, modes()

    warnings.simplefilter("ignore")
    with FlopCounter() as counter:
        assert run_in_child(answer) == (PRODUCT, 2 * PRODUCT, [])
    assert counter.report().total.macs == 0


def fork_aside() -> None:
    """Fork in another thread than the one that counts, and look at both processes."""
    answers: list[Any] = []

    def aside() -> None:
        answers.append(run_in_child(lambda: watchers()))

    warnings.simplefilter("ignore")
    alone = watchers()
    with FlopCounter() as counter:
        thread = threading.Thread(target=aside)
        thread.start()
        thread.join()
        mm()
    assert answers == [alone]
    assert counter.report().total.macs == PRODUCT
    assert sum(counter.report().children.values()) == 1


class Data(Dataset[Tensor]):
    """Each item says what watched its process, and does a product."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        mm()
        return torch.tensor(watchers())


@fork
class TestAForkedChild:
    def test_nothing_watches_it(self) -> None:
        alone = watchers()
        with FlopCounter(), FlopCounter():
            assert run_in_child(lambda: watchers()) == alone
            assert len(modes()) == 2  # the parent goes on
            mm()

    def test_workers_of_a_data_loader(self) -> None:
        alone = torch.tensor([watchers()] * 4)
        with FlopCounter() as counter:
            mm()
            (items,) = DataLoader(Data(), batch_size=4, num_workers=1)
            mm()
        assert torch.equal(items, alone)
        report = counter.report()
        assert report.total.macs == 2 * PRODUCT
        assert report.children == {"DataLoader worker": 1}

    def test_a_mode_of_the_program_stays(self) -> None:
        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # fmt: skip  # noqa: E501
                return func(*args, **kwargs or {})

        with Mode() as outer, FlopCounter(), Mode() as inner, FlopCounter():
            assert run_in_child(lambda: [id(mode) for mode in modes()]) == [id(outer), id(inner)]

    def test_its_own_counter_works(self) -> None:
        run_afresh(fork_a_child_that_counts)

    def test_a_counter_that_it_inherits_can_be_entered(self) -> None:
        counter = FlopCounter()

        def answer() -> Any:
            before = counter.report().total.macs
            with counter:
                linear()(batch())
            return before, counter.report().total.macs, modes()

        with counter:
            mm()
            assert run_in_child(answer) == (PRODUCT, 2 * PRODUCT, [])
        assert counter.report().total.macs == PRODUCT

    @pytest.mark.parametrize("inside", ["a block", "nested blocks", "a module", "backward"])
    def test_one_that_goes_on_in_the_block(self, inside: str) -> None:
        """It leaves the blocks by their ends, as the parent does."""
        end, end_of_child = os.pipe()
        pids: list[int] = []

        def split(*args: Any) -> None:
            pids.append(os.fork())
            mm()

        class Splitting(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                split()
                return x * 1.0

        counter, model = FlopCounter(), Splitting()
        with counter:
            if inside == "a block":
                split()
            elif inside == "nested blocks":
                with FlopCounter(), counter:
                    split()
            elif inside == "a module":
                model(batch())
            else:
                y = batch().requires_grad_() * 1.0
                y.register_hook(split)
                y.sum().backward()
            mm()
        if pids == [0]:
            # at the end of backward, autograd gives its thread back the modes that it had before
            uncounted = inside == "backward" or counter.report().total.macs == 0
            clean = not modes() and uncounted
            os.write(end_of_child, b"clean" if clean else b"dirty")
            os._exit(0)
        assert os.waitpid(pids[0], 0)[1] == 0
        assert os.read(end, 5) == b"clean"
        assert counter.report().total.macs == 2 * PRODUCT
        assert counter.report().children == {"os.fork": 1}

    def test_a_fork_in_another_thread(self) -> None:
        """Where DTensors ran, such a child of torch's crashes by itself."""
        run_afresh(fork_aside)

    def test_compiled_functions_run_compiled_in_it(self) -> None:
        torch._dynamo.reset()  # loads the compiler
        stance = torch._dynamo.eval_frame._stance
        with FlopCounter():
            assert torch._dynamo.eval_frame._stance is not stance
            assert run_in_child(lambda: torch._dynamo.eval_frame._stance is stance)

    def test_it_goes_undisturbed(self) -> None:
        def run(notes: Notes) -> Any:
            pid = os.fork()
            if pid == 0:
                os._exit(7)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        assert_undisturbed(run)


def spawned() -> None:
    torch.multiprocessing.spawn(work, nprocs=2)


def of_a_pool() -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(work, [1, 2]) == [1, 2]


def of_an_executor() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(work, [1, 2])) == [1, 2]


def of_a_fork_server() -> None:
    process = multiprocessing.get_context("forkserver").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0


def another_program() -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def no_python() -> None:
    subprocess.run(["true"], check=True)
    subprocess.run("exit 0", shell=True, check=True)
    subprocess.run(["true"], check=True, preexec_fn=lambda: None)


STARTED: dict[Callable[[], None], dict[str, int]] = {
    spawned: {"work": 2},
    of_a_pool: {"Pool worker": 2},
    of_an_executor: {"ProcessPoolExecutor worker": 1},
    of_a_fork_server: {"work": 1},
    another_program: {f"{os.path.basename(sys.executable)} -c": 1},
    no_python: {},
}
"""Ways to start processes, and what the report says of them."""


@fork
class TestTheReport:
    @pytest.mark.parametrize("start", STARTED, ids=lambda start: start.__name__)
    def test_names_what_they_run(self, start: Callable[[], None]) -> None:
        with FlopCounter() as counter:
            start()
        report = counter.report()
        assert report.children == STARTED[start]
        assert report.total.macs == 0

    def report(self, start: Callable[[], None]) -> Report:
        with FlopCounter() as counter:
            start()
        return counter.report()

    def fork(self) -> None:
        run_in_child(lambda: None)

    def test_warns_once(self) -> None:
        with FlopCounter() as counter:
            self.fork()
            self.fork()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            counter.report()
            counter.report()
        assert [(w.filename, w.category) for w in caught] == [(__file__, UnwatchedProcessWarning)]
        assert "ran in 2 processes that the block started" in str(caught[0].message)

    def test_does_not_warn_of_workers_of_a_data_loader(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnwatchedProcessWarning)
            report = self.report(lambda: list(DataLoader(Data(), num_workers=1)) and None)
        assert "in processes that the block started: DataLoader worker (1)" in report.table()

    def test_is_saved_with_them(self) -> None:
        report = self.report(self.fork)
        assert sum(report.children.values()) == 1
        assert Report.from_json(report.to_json()) == report

    def test_forgets_them_when_the_counter_is_reset(self) -> None:
        with FlopCounter() as counter:
            self.fork()
        counter.reset()
        assert counter.report().children == {}

    def test_every_open_counter_names_them_once(self) -> None:
        closed = FlopCounter()
        with closed:
            pass
        with FlopCounter() as outer, outer, FlopCounter() as inner:
            self.fork()
        assert [sum(c.report().children.values()) for c in (outer, inner, closed)] == [1, 1, 0]

    def test_says_nothing_of_managers(self) -> None:
        def manage() -> None:
            with multiprocessing.Manager() as manager:
                assert manager.dict(a=1)["a"] == 1

        assert self.report(manage).children == {}

    def test_a_command_that_does_not_exist(self) -> None:
        def run(notes: Notes) -> Any:
            return subprocess.run(["no-such-command"], check=True)

        assert_undisturbed(run)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python3.11", "-m", "torch.run", "x.py"], "python3.11 -m torch.run"),
        (["torchrun", "--nproc-per-node=2", "train.py"], "torchrun train.py"),
        ([sys.executable], os.path.basename(sys.executable)),
        (["python", "/lib/torch/_inductor/compile_worker/__main__.py"], ""),
        ("git log", ""),
        ([], ""),
        ("", ""),
        (None, ""),
        (os.fspath("/bin/pythonic"), ""),
    ],
)  # fmt: skip
def test_what_a_command_runs(command: Any, name: str) -> None:
    assert python_program(command) == name
