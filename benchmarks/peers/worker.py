"""Asks one tool; runs in the peers' environment, and is told its jobs as lines of JSON.

python -m benchmarks.peers.worker TOOL
"""

from __future__ import annotations

import json
import os
import sys

from benchmarks.peers.jobs import Job, ask, get_ready


def main() -> None:
    # whatever the tools print goes to standard error; answers alone to standard output
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    tool = sys.argv[1]
    get_ready(tool)
    for line in sys.stdin:
        print(json.dumps(ask(tool, Job(*json.loads(line)))), file=answers, flush=True)


if __name__ == "__main__":
    main()
