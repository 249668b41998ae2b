"""Forward MACs of every torchvision weight against its published figure.

    python -m benchmarks.accuracy

The sizes, and the thresholds that fix how much two-stage detectors find, are those of
``tests/test_torchvision.py``. Results go to ``benchmarks/results/accuracy.json``.
"""

from __future__ import annotations

import sys
import time
import warnings

import pytest
import torch

from benchmarks.figures import write
from flopcount import zoo
from tests.detection import stand_in
from tests.test_torchvision import DETECTORS, forward_macs, published


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torchvision, start, rows = zoo.load(), time.perf_counter(), {}
    for parameters in published():
        name, weights = parameters.values
        with pytest.MonkeyPatch.context() as monkeypatch:
            if name in DETECTORS:
                stand_in(torchvision, monkeypatch, pool=False)
            macs = forward_macs(name, weights)
        figure = weights.meta["_ops"]
        rows[str(weights)] = {"macs": macs, "published": figure}
        if round(macs / 1e9, 3) != figure:
            print(f"{weights}: {macs / 1e9:.3f} GMAC, published {figure}")
    exact = sum(round(row["macs"] / 1e9, 3) == row["published"] for row in rows.values())
    seconds = round(time.perf_counter() - start)
    print(f"{exact} of {len(rows)} weights agree to the printed digits, in {seconds} s")
    write("accuracy", {"agree": exact, "of": len(rows), "seconds": seconds, "weights": rows})
    sys.exit(exact != len(rows))


if __name__ == "__main__":
    main()
