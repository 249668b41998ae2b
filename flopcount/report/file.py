"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path


def write_whole(path: str | PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8; a failure leaves the file there as it was.

    The text first goes to a file of another name in the same folder, which then takes the place of
    the one at ``path``, with its permissions. A symbolic link stays one. A pipe or a device is
    written directly.

    Raises:
        OSError: the file cannot be written; it names ``path`` and what is there now.
    """
    target = Path(os.path.realpath(path))
    with _naming(path, target):
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")
            return
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        temporary = target.with_name(f".flopcount-{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                temporary.chmod(target.stat().st_mode)
            temporary.replace(target)
        except BaseException:  # an interrupt, too
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def _naming(path: str | PathLike[str], target: Path) -> Iterator[None]:
    """Let an OSError of this block name ``path``, not a file that the user does not know."""
    try:
        yield
    except OSError as error:
        left = "the file is as it was before" if target.is_file() else "nothing was written"
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{reason}; {left}", os.fspath(path)) from error
