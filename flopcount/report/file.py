"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import gzip
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from os import PathLike
from pathlib import Path
from typing import IO, Any


def write_whole(path: str | PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8; a failure leaves the file there as it was.

    Raises:
        OSError: the file cannot be written; it names ``path`` and what is there now.
    """
    with writing_whole(path) as file:
        file.write(text.encode())


@contextmanager
def writing_whole(path: str | PathLike[str], *, is_zipped: bool = False) -> Iterator[IO[bytes]]:
    """A file to write to ``path``, gzip if it ``is_zipped``.

    A failure leaves the one there as it was. What is written first goes to a file of another name
    in the same folder, which then takes the place of the one at ``path``, with its permissions. A
    symbolic link stays one. A pipe or a device is written directly.

    Raises:
        OSError: the file cannot be written; it names ``path`` and what is there now.
    """
    target = Path(os.path.realpath(path))
    with _naming(path, target):
        if target.exists() and not target.is_file():
            with target.open("wb") as file, _zipping(file, is_zipped) as writer:
                yield writer
            return
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        temporary = target.with_name(f".flopcount-{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as file:
                with _zipping(file, is_zipped) as writer:
                    yield writer
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                temporary.chmod(target.stat().st_mode)
            temporary.replace(target)
        except BaseException:  # an interrupt, too
            temporary.unlink(missing_ok=True)
            raise


def _zipping(file: IO[bytes], is_zipped: bool) -> Any:
    return gzip.GzipFile(fileobj=file, mode="wb", mtime=0) if is_zipped else nullcontext(file)


@contextmanager
def _naming(path: str | PathLike[str], target: Path) -> Iterator[None]:
    """Let an OSError of this block name ``path``, not a file that the user does not know."""
    try:
        yield
    except OSError as error:
        left = "the file is as it was before" if target.is_file() else "nothing was written"
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{reason}; {left}", os.fspath(path)) from error
