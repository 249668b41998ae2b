"""What an update writes, removes and keeps, where, and what it does when it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flopcount.pytest_plugin.baseline import document_of
from flopcount.pytest_plugin.baseline_file import read, write
from flopcount.pytest_plugin.update import Updated, is_collected, update
from tests.conftest import IS_INSTALLED
from tests.pytest_plugin.conftest import FILE, WORK, Run, names
from tests.pytest_plugin.test_baseline import linear
from tests.pytest_plugin.test_baseline_fixture import TESTS

BASELINE = """
def test_a(flop_baseline):
    with flop_baseline("s"): work()
"""

PLUGIN = () if IS_INSTALLED else ("-p", "flopcount.pytest_plugin")


def content(pytester: pytest.Pytester) -> str:
    return (pytester.path / FILE).read_text(encoding="utf-8")


class TestDeleted:
    @pytest.fixture(autouse=True)
    def written(self, run: Run) -> None:
        run(TESTS, "--flops-update")

    def test_a_function_with_its_parameters(self, run: Run, pytester: pytest.Pytester) -> None:
        run(TESTS.replace("test_step", "test_leap"), "--flops-update")
        assert [*names(pytester)] == ["TestModel::test_it", "test_leap[4]", "test_leap[5]"]

    def test_a_class(self, run: Run, pytester: pytest.Pytester) -> None:
        result = run(TESTS.partition("class")[0], "--flops-update")
        result.stdout.fnmatch_lines([f"{FILE}: 0 written, 2 removed"])
        assert [*names(pytester)] == ["test_step[4]", "test_step[5]"]

    def test_a_name(self, run: Run, pytester: pytest.Pytester) -> None:
        run(TESTS.replace('"twice"', '"thrice"'), "--flops-update")
        assert names(pytester)["TestModel::test_it"] == ["forward", "thrice"]

    def test_whatever_is_wrong_in_another_file(self, run: Run, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(test_other="raise ValueError")
        run(TESTS.partition("class")[0], "--flops-update", "--continue-on-collection-errors")
        assert [*names(pytester)] == ["test_step[4]", "test_step[5]"]

    def test_every_baseline(self, run: Run, pytester: pytest.Pytester) -> None:
        run("def test_other(): pass", "--flops-update")
        assert not (pytester.path / "__flops__").exists()

    def test_the_file(self, run: Run, pytester: pytest.Pytester) -> None:
        folder = (pytester.path / FILE).parent
        (pytester.path / FILE).rename(folder / "test_gone.json")
        result = run(TESTS, "--flops-update")
        result.stdout.fnmatch_lines(["__flops__/test_gone.json: deleted with its tests"])
        assert [path.name for path in folder.iterdir()] == ["test_it.json"]

    @pytest.mark.parametrize(
        "selection",
        [("-k", "twice"), ("test_it.py::test_step[4]",), ("--deselect", "test_it.py::TestModel")],
        ids=" ".join,
    )
    def test_nothing_that_was_only_not_selected(
        self, selection: tuple[str, ...], run: Run, pytester: pytest.Pytester
    ) -> None:
        before = content(pytester)
        run(TESTS, "--flops-update", *selection)
        assert content(pytester) == before

    def test_nothing_that_last_failed_leaves_out(self, run: Run, pytester: pytest.Pytester) -> None:
        before = content(pytester)
        pytester.makepyfile(test_other="def test_other(): assert False")
        run(TESTS)
        run(TESTS, "--lf", "--flops-update")
        assert content(pytester) == before

    @pytest.mark.parametrize(
        "instead",
        [
            "raise ValueError",
            "pytest.skip('later', allow_module_level=True)",
            "@pytest.mark.parametrize('x', [1])\ndef test_it(): pass",
            "@pytest.mark.flop_budget()\ndef test_it(): pass",
        ],
        ids=["an error", "a skip", "a wrong parameter", "a wrong budget"],
    )
    @pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "two"])
    def test_nothing_in_a_file_that_was_not_collected(
        self, instead: str, processes: tuple[str, ...], run: Run, pytester: pytest.Pytester
    ) -> None:
        """It is collected as a file of doctests, too, and there without an error."""
        if processes:
            pytest.importorskip("xdist")
        before = content(pytester)
        run(instead, "--flops-update", "--doctest-modules", *processes)
        assert content(pytester) == before


class TestOrphans:
    """Files of baselines whose file of tests is gone."""

    @pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "two"])
    def test_they_are_deleted_even_where_no_test_is_left(
        self, processes: tuple[str, ...], run: Run, pytester: pytest.Pytester
    ) -> None:
        if processes:
            pytest.importorskip("xdist")
        run(BASELINE, "--flops-update")
        gone = pytester.mkdir("sub") / "__flops__" / "test_gone.json"
        gone.parent.mkdir()
        gone.write_text(content(pytester), encoding="utf-8")
        result = run(BASELINE, "--flops-update", *processes)
        result.stdout.fnmatch_lines(["sub/__flops__/test_gone.json: deleted with its tests"])
        assert not gone.parent.exists()
        assert names(pytester) == {"test_a": ["s"]}

    def test_other_files_are_none(self, run: Run, pytester: pytest.Pytester) -> None:
        run(BASELINE, "--flops-update")
        other = (pytester.path / FILE).with_name("other.json")
        other.write_text('{"tests": {}}', encoding="utf-8")
        run(BASELINE, "--flops-update").stdout.fnmatch_lines(["nothing to write"])
        assert other.exists()


class TestKept:
    """A test whose function is there may run elsewhere."""

    def test_one_that_returns_before_its_block(self, run: Run, pytester: pytest.Pytester) -> None:
        run(BASELINE, "--flops-update")
        before = content(pytester)
        early = BASELINE.replace("    with", "    return\n    with")
        result = run(early, "--flops-update")
        assert result.ret == pytest.ExitCode.OK
        result.stdout.fnmatch_lines([f"{FILE}: kept test_a 's', which did not run here"])
        assert content(pytester) == before

    def test_parameters_that_are_not_here(self, run: Run, pytester: pytest.Pytester) -> None:
        run(TESTS, "--flops-update")
        result = run(TESTS.replace("[4, 5]", "[4]"), "--flops-update")
        result.stdout.fnmatch_lines([f"{FILE}: kept test_step[[]5[]] 'forward', which did not *"])
        assert "test_step[5]" in names(pytester)

    def test_one_of_two_blocks(self, run: Run, pytester: pytest.Pytester) -> None:
        tests = BASELINE + "    if True:\n        with flop_baseline('t'): work()\n"
        run(tests, "--flops-update")
        run(tests.replace("True", "False"), "--flops-update")
        assert names(pytester) == {"test_a": ["s", "t"]}

    def test_a_skipped_one(self, run: Run, pytester: pytest.Pytester) -> None:
        run(BASELINE, "--flops-update")
        run(f"@pytest.mark.skip{BASELINE}", "--flops-update")
        assert names(pytester) == {"test_a": ["s"]}


@pytest.mark.parametrize("options", [("--collect-only",), ("--setup-only",)], ids=" ".join)
def test_what_runs_no_test_writes_nothing(
    options: tuple[str, ...], run: Run, pytester: pytest.Pytester
) -> None:
    run(BASELINE, "--flops-update", *options)
    assert names(pytester) == {}


def test_a_mere_collection_removes_nothing(run: Run, pytester: pytest.Pytester) -> None:
    run(BASELINE, "--flops-update")
    result = run("def test_b(): pass", "--flops-update", "--collect-only")
    result.stdout.no_fnmatch_line("*FLOP baselines*")
    assert names(pytester) == {"test_a": ["s"]}


class TestFiles:
    """A baseline is beside its test, whatever pytest's root is."""

    @pytest.mark.parametrize(
        "options", [("-c", "conf/pytest.ini"), ("--rootdir", "conf")], ids=" ".join
    )
    def test_beside_the_test(self, options: tuple[str, ...], pytester: pytest.Pytester) -> None:
        (pytester.mkdir("conf") / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        for folder, times in (("one", 1), ("two", 2)):
            tests = WORK + BASELINE.replace("work()", "work(); " * times)
            (pytester.mkdir(folder) / f"test_{folder}.py").write_text(tests, encoding="utf-8")
        run = (*PLUGIN, "--import-mode=importlib", *options, "one", "two")
        result = pytester.runpytest_inprocess(*run)
        result.assert_outcomes(failed=2)
        command = "pytest --flops-update one/test_one.py::test_a"
        result.stdout.fnmatch_lines([f"there is no baseline 's'; `{command}` writes it"])
        pytester.runpytest_inprocess(*run, "--flops-update").assert_outcomes(passed=2)
        for folder in ("one", "two"):
            assert names(pytester, f"{folder}/__flops__/test_{folder}.json") == {"test_a": ["s"]}
        pytester.runpytest_inprocess(*run).assert_outcomes(passed=2)
        pytester.runpytest_inprocess(*run, "--flops-update").stdout.fnmatch_lines(
            ["nothing to write"]
        )
        assert not (pytester.path / "conf" / "__flops__").exists()

    def test_of_a_file_of_doctests_they_have_a_file_of_their_own(
        self, run: Run, pytester: pytest.Pytester
    ) -> None:
        run(BASELINE, "--flops-update")
        pytester.maketxtfile(test_it=">>> 1\n1\n")
        run(BASELINE, "--flops-update").stdout.fnmatch_lines(["nothing to write"])
        assert names(pytester) == {"test_a": ["s"]}
        doctest = """
            >>> import torch
            >>> with getfixture("flop_baseline")("s"):
            ...     _ = torch.relu(torch.empty(4))
        """
        pytester.maketxtfile(test_it=doctest)
        run(BASELINE, "--flops-update").assert_outcomes(passed=2)
        assert names(pytester, "__flops__/test_it.txt.json") == {"test_it.txt": ["s"]}
        assert names(pytester) == {"test_a": ["s"]}
        run(BASELINE).assert_outcomes(passed=2)

    def test_the_command_is_for_where_pytest_was_started(
        self, run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytester.makeini("[pytest]")
        monkeypatch.chdir(pytester.mkdir("below"))
        command = "pytest --flops-update ../test_it.py::test_a"
        run(BASELINE, "..").stdout.fnmatch_lines([f"*`{command}`*"])
        run(BASELINE, "..", "--flops", "--flops-update").stdout.fnmatch_lines(
            ["../test_it.py::test_a *128 FLOP", f"../{FILE}: 1 written, 0 removed"]
        )

    def test_a_group_of_workers_is_no_part_of_a_name(
        self, run: Run, pytester: pytest.Pytester
    ) -> None:
        pytest.importorskip("xdist")
        tests = f"@pytest.mark.xdist_group('grp'){BASELINE}"
        options = ("-n", "2", "--dist=loadgroup")
        run(tests, *options).stdout.fnmatch_lines(["*`pytest --flops-update test_it.py::test_a`*"])
        run(tests, "--flops-update", *options)
        assert names(pytester) == {"test_a": ["s"]}

    def test_two_processes_say_what_one_says(self, run: Run, pytester: pytest.Pytester) -> None:
        pytest.importorskip("xdist")
        result = run(TESTS, "--flops-update", "-n", "2")
        result.stdout.fnmatch_lines(["*= FLOP baselines =*", f"{FILE}: 4 written, 0 removed"])
        result = run(TESTS.replace("[4, 5]", "[4]"), "--flops-update", "-n", "2")
        result.stdout.fnmatch_lines([f"{FILE}: kept test_step[[]5[]] 'forward', which did not *"])


class TestDamage:
    """What cannot be read or written is reported, fails the run, and stops nothing else."""

    @pytest.fixture(autouse=True)
    def other(self, pytester: pytest.Pytester) -> None:
        pytester.mkdir("sub").joinpath("test_other.py").write_text(WORK + BASELINE, "utf-8")

    OTHER = "sub/__flops__/test_other.json: 1 written, 0 removed"

    @pytest.mark.parametrize(
        "content",
        [
            "<<<<<<< ours",
            "[]",
            *(
                f'{{"schema": "flopcount.baselines/1", "tests": {tests}}}'
                for tests in ("[]", "null", '{"test_a": []}', '{"test_a": {"s": []}}')
            ),
        ],
    )
    def test_a_damaged_file(self, content: str, run: Run, pytester: pytest.Pytester) -> None:
        path = pytester.mkdir("__flops__") / "test_it.json"
        path.write_text(content, encoding="utf-8")
        remedy = "delete it, and pytest --flops-update writes it anew"
        result = run(BASELINE)
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines(
            [f"baseline 's' in {FILE}: not a file of baselines *; {remedy}"]
        )
        result = run(BASELINE, "--flops-update")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines([self.OTHER, f"{FILE}: not a file of baselines *; {remedy}"])
        assert path.read_text(encoding="utf-8") == content

    @pytest.mark.parametrize("key", ["torch", "rows", "schema"])
    def test_a_damaged_baseline(self, key: str, run: Run, pytester: pytest.Pytester) -> None:
        tests = BASELINE + BASELINE.replace("test_a", "test_b")
        run(tests, "--flops-update", "test_it.py")
        written = json.loads(content(pytester))
        damaged: dict[str, Any] = written["tests"]["test_a"]["s"]
        del damaged[key]
        del written["tests"]["test_b"]
        (pytester.path / FILE).write_text(json.dumps(written), encoding="utf-8")
        run(tests, "-k", "test_a", "test_it.py").stdout.fnmatch_lines(
            [f"baseline 's' in {FILE}: not a baseline (*; delete it, and pytest *"]
        )
        result = run(tests, "--flops-update")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(
            [
                self.OTHER,
                f"{FILE}: 1 written, 0 removed",
                f"{FILE}: test_a 's': not a baseline (*); delete it, and pytest --flops-update *",
            ]
        )
        after = json.loads(content(pytester))["tests"]
        assert after["test_a"]["s"] == damaged
        assert [*after] == ["test_a", "test_b"]

    def test_no_folder(self, run: Run, pytester: pytest.Pytester) -> None:
        (pytester.path / "__flops__").touch()
        run(BASELINE, "test_it.py").stdout.fnmatch_lines(["there is no baseline 's'*"])
        result = run(BASELINE, "--flops-update")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines([self.OTHER, f"{FILE}: cannot be written: *exists*"])

    def test_no_file(self, run: Run, pytester: pytest.Pytester) -> None:
        (pytester.mkdir("__flops__") / "test_it.json").mkdir()
        run(BASELINE, "test_it.py").stdout.fnmatch_lines(
            [f"baseline 's' in {FILE}: cannot be read: *"]
        )
        result = run(BASELINE, "--flops-update")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines([self.OTHER, f"{FILE}: cannot be read: *"])

    def test_a_folder_that_cannot_be_written(
        self, run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As one that is read-only, to whoever is no superuser."""
        open_file = Path.open

        def refuse(path: Path, mode: str = "r", **options: Any) -> Any:
            if mode == "xb" and path.parent == pytester.path / "__flops__":
                raise PermissionError(13, "Permission denied", str(path))
            return open_file(path, mode, **options)

        run(BASELINE)
        monkeypatch.setattr(Path, "open", refuse)
        result = pytester.runpytest_inprocess(*PLUGIN, "--flops-update")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines([self.OTHER, f"{FILE}: cannot be written: *Permission denied*"])


class TestUpdateOfAFile:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "__flops__" / "test_it.json"

    def test_what_is_new_is_written(self, file: Path) -> None:
        passed = {"test_a": {"step": document_of(linear(2))}}
        assert update(file, passed, {}) == Updated(1, 0)
        assert read(file) == {"test_a": {"step": document_of(linear(2))}}

    def test_what_is_changed_is_written_and_the_rest_stays(self, file: Path) -> None:
        old = {**document_of(linear(2)), "torch": "1.0"}
        write(file, {"test_a": {"one": old, "two": old}})
        new = {"one": document_of(linear(2)), "two": document_of(linear(3))}
        assert update(file, {"test_a": new}, {}) == Updated(1, 0)
        assert read(file) == {"test_a": {"one": old, "two": document_of(linear(3))}}

    def test_nothing_to_write_leaves_the_file_alone(self, file: Path) -> None:
        passed = {"test_a": {"step": document_of(linear(2))}}
        update(file, passed, {})
        before = file.stat().st_mtime_ns
        assert update(file, passed, {}) == Updated(0, 0)
        assert file.stat().st_mtime_ns == before

    def test_what_no_test_has_any_more_is_removed(self, file: Path) -> None:
        step = {"step": document_of(linear(2))}
        update(file, {"test_a": step, "test_b": step, "test_c": step}, {})
        # test_b was deleted, test_c was not selected, test_a has another name for its baseline
        passed, collected = {"test_a": {"leap": step["step"]}}, {"": ["test_a", "test_c"]}
        assert update(file, passed, collected) == Updated(1, 2)
        assert {test: [*named] for test, named in read(file).items()} == {
            "test_a": ["leap"],
            "test_c": ["step"],
        }

    def test_a_file_without_baselines_is_deleted(self, file: Path) -> None:
        update(file, {"test_a": {"step": document_of(linear(2))}}, {})
        assert update(file, {}, {"": []}) == Updated(0, 1)
        assert not file.parent.exists()

    def test_what_a_test_did_not_come_to_is_kept(self, file: Path) -> None:
        step = {"step": document_of(linear(2))}
        update(file, {"test_a": step, "test_b[1]": step}, {})
        before = file.read_text(encoding="utf-8")
        updated = update(file, {"test_a": {}}, {"": ["test_a", "test_b[2]"]})
        assert updated == Updated(0, 0, kept=("test_a 'step'", "test_b[1] 'step'"))
        assert file.read_text(encoding="utf-8") == before

    def test_tests_without_baselines_make_no_file(self, file: Path) -> None:
        assert update(file, {"test_a": {}}, {"": ["test_a"]}) == Updated(0, 0)
        assert not file.parent.exists()


@pytest.mark.parametrize(
    ("test", "collected", "expected"),
    [
        ("test_a", {}, True),
        ("test_a", {"": None}, True),
        ("test_a", {"": ["test_a"]}, True),
        ("test_a", {"": ["test_b"]}, False),
        ("test_a[1]", {"": ["test_a[2]"]}, False),
        ("test_a[x::y]", {"": ["test_a[x::y]"]}, True),
        ("TestA::test_a", {"": []}, False),
        ("TestA::test_a", {"": ["TestA"]}, True),
        ("TestA::test_a", {"": ["TestA"], "TestA": ["test_a"]}, True),
        ("TestA::test_a", {"": ["TestA"], "TestA": []}, False),
        ("TestA::TestB::test_a", {"": ["TestA"], "TestA": ["test_a"]}, False),
        ("TestA::TestB::test_a", {"TestA::TestB": []}, True),
    ],
    ids=str,
)
def test_a_test_may_exist_unless_its_parent_was_searched_in_vain(
    test: str, collected: dict[str, list[str] | None], expected: bool
) -> None:
    assert is_collected(test, collected) is expected
