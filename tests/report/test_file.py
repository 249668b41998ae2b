"""Files are written whole or not at all: reports, and by the same function baselines."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flopcount
from flopcount import Report
from flopcount.pytest_plugin import baseline_file
from flopcount.report import file, render
from flopcount.report.file import write_whole

OLD = "what was there before"


@pytest.fixture(scope="module")
def report() -> Report:
    return flopcount.count(nn.Linear(8, 2), torch.ones(4, 8))


class FullDisk:
    """A file that takes the first characters, and then has no space."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.inner.close()

    def write(self, data: bytes) -> None:
        self.inner.write(data[:10])
        self.inner.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def open_(path: Path, mode: str = "r", **options: Any) -> Any:
        file = opened(path, mode, **options)
        return FullDisk(file) if mode == "xb" else file  # pytest itself reads others

    monkeypatch.setattr(Path, "open", open_)


def no_space_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", refuse)


def no_space_to_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file.os, "fsync", refuse)


FAILURES = [full_disk, no_space_to_name, no_space_to_sync]


@pytest.mark.parametrize("fail", FAILURES, ids=lambda f: f.__name__)
class TestAFullDisk:
    def test_leaves_the_older_report(
        self,
        fail: Callable[[pytest.MonkeyPatch], None],
        report: Report,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        path = tmp_path / "step.json"
        path.write_text(OLD)
        with monkeypatch.context() as patched:
            fail(patched)
            with pytest.raises(OSError, match="No space left on device; the file is as it was"):
                report.save(path)
        assert path.read_text() == OLD
        assert list(tmp_path.iterdir()) == [path]

    def test_leaves_nothing_where_nothing_was(
        self,
        fail: Callable[[pytest.MonkeyPatch], None],
        report: Report,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with monkeypatch.context() as patched:
            fail(patched)
            with pytest.raises(OSError, match="nothing was written") as error:
                report.save(tmp_path / "step.json")
        assert error.value.errno == errno.ENOSPC
        assert error.value.filename == str(tmp_path / "step.json")
        assert not list(tmp_path.iterdir())

    def test_leaves_the_older_baselines_or_no_folder(
        self,
        fail: Callable[[pytest.MonkeyPatch], None],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        path = baseline_file.file_beside(tmp_path / "test_step.py")
        with monkeypatch.context() as patched:
            fail(patched)
            with pytest.raises(OSError, match="No space left"):
                baseline_file.write(path, {})
        assert not list(tmp_path.iterdir())
        baseline_file.write(path, {"test_step": {}})
        before = path.read_text()
        with monkeypatch.context() as patched:
            fail(patched)
            with pytest.raises(OSError, match="No space left"):
                baseline_file.write(path, {})
        assert path.read_text() == before
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_a_format_that_fails_leaves_the_older_file(
    error: type[BaseException], report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(report: Report) -> str:
        raise error

    path = tmp_path / "step.html"
    path.write_text(OLD)
    monkeypatch.setattr(render, "renderer", lambda path: fail)
    with pytest.raises(error):
        report.save(path)
    assert path.read_text() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_cannot_be_encoded_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "step.txt"
    path.write_text(OLD)
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half a pair: \ud800")
    assert path.read_text() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_file_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    path = tmp_path / "step.txt"
    write_whole(path, "Größe √2\n")
    assert path.read_bytes() == "Größe √2\n".replace("\n", os.linesep).encode()


def test_permissions_stay_and_new_files_have_the_usual_ones(tmp_path: Path) -> None:
    old, new, usual = tmp_path / "old.txt", tmp_path / "new.txt", tmp_path / "usual.txt"
    usual.touch()
    old.touch()
    old.chmod(0o640)
    for path in (old, new):
        write_whole(path, "text")
        assert path.read_text() == "text"
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert new.stat().st_mode == usual.stat().st_mode


def test_a_file_that_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A superuser may write all: below, nobody may."""
    path = tmp_path / "step.txt"
    path.write_text(OLD)
    monkeypatch.setattr(file.os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="Permission denied; the file is as it was"):
        write_whole(path, "text")
    assert path.read_text() == OLD


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "folder" / "step.txt", tmp_path / "link.txt"
    target.parent.mkdir()
    link.symlink_to(target)
    for text in ("first", "second"):  # to a file that is not there yet, and to one that is
        write_whole(link, text)
        assert link.is_symlink()
        assert target.read_text() == text


def test_a_pipe_is_written_directly(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe.txt", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "text")
    reader.join(10)
    assert found == ["text"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_that_is_not_there_is_told_by_the_users_own_path(
    report: Report, tmp_path: Path
) -> None:
    path = tmp_path / "nowhere" / "step.json"
    with pytest.raises(FileNotFoundError) as error:
        report.save(path)
    assert error.value.filename == str(path)
