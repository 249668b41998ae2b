"""An environment of the peers' own, so that what they need constrains nothing else.

Made with ``venv`` and ``pip`` in the user's cache, once for each list of requirements, each torch
and each Python. DeepSpeed is not easy to install: where it does not, it has no figures.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flopcount
from benchmarks.figures import version

__all__ = ["Environment", "environment"]

REQUIREMENTS = Path(__file__).with_name("requirements.txt")

DEEPSPEED = "deepspeed==0.19.8"
"""Its setup.py imports torch, hence ``--no-build-isolation``; no kernels are compiled."""

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Environment:
    """Where the peers are installed.

    Attributes:
        folder: the virtual environment.
        deepspeed: whether DeepSpeed could be installed, too.
    """

    folder: Path
    deepspeed: bool

    def versions(self, packages: Iterable[str]) -> dict[str, str]:
        """The versions of ``packages``."""
        command = (
            "import json, sys; from benchmarks.figures import version; "
            "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
        )
        with self.start("-c", command, *packages) as process:
            assert process.stdout
            found: dict[str, str] = json.loads(process.stdout.read())
        return {**found, "flopcount": flopcount.__version__}

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A process of this checkout in the environment; what tools print is kept beside it."""
        with (self.folder / "errors.log").open("a", encoding="utf-8") as errors:
            return subprocess.Popen(
                [str(python_of(self.folder)), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONWARNINGS": "ignore"},
            )


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / "bin" / "python"


def torches() -> list[str]:
    """torch and torchvision, at the versions of the running interpreter."""
    found = {name: version(name) for name in ("torch", "torchvision")}
    return [f"{name}=={number.partition('+')[0]}" for name, number in found.items() if number]


def home() -> Path:
    """The folder for these requirements."""
    asked = [REQUIREMENTS.read_text("utf-8"), DEEPSPEED, *torches(), platform.python_version()]
    digest = hashlib.sha256("\n".join(asked).encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "flopcount" / f"peers-{digest[:12]}"


def pip(folder: Path, *arguments: str, **environ: str) -> bool:
    """Whether pip installs that."""
    command = [str(python_of(folder)), "-m", "pip", "install", "--quiet", *arguments]
    return subprocess.run(command, check=False, env=os.environ | environ).returncode == 0


def environment() -> Environment:
    """The peers' environment, made if it is not there.

    Raises:
        RuntimeError: pip could not install the peers.
    """
    folder = home()
    whole = folder / "whole.json"  # written last
    if not whole.exists():
        print(f"installing the peers in {folder}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        if not pip(folder, *torches(), "-r", str(REQUIREMENTS)):
            raise RuntimeError(f"the peers could not be installed in {folder}")
        built = pip(folder, "--no-build-isolation", DEEPSPEED, DS_BUILD_OPS="0")
        whole.write_text(json.dumps({"deepspeed": built}), encoding="utf-8")
    made: dict[str, Any] = json.loads(whole.read_text("utf-8"))
    return Environment(folder, made["deepspeed"])
