"""Write the recording of the torch that is installed."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from tests.trace.data.step import Net, train

KEPT = ("nn.Module: ", "ProfilerStep#", "Optimizer.")


def main() -> None:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        with profile(
            activities=[ProfilerActivity.CPU],
            record_shapes=True,
            with_stack=True,
            schedule=schedule(wait=0, warmup=1, active=2),
            on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(path)),
        ) as profiler:
            for _ in range(3):
                train(model, optimizer)
                profiler.step()
        document = json.loads(path.read_text())
    for key in ("host_name", "trace_id", "traceName", "deviceProperties"):
        document.pop(key, None)
    document["traceEvents"] = [
        event
        for event in document["traceEvents"]
        if event.get("cat") != "python_function" or event["name"].startswith(KEPT)
    ]
    version = torch.__version__.partition("+")[0]
    text = json.dumps(document, separators=(",", ":"))
    target = Path(__file__).with_name(f"torch-{version}.json.gz")
    target.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
