"""Callables that run kernels of their own, which no op shows to a dispatch mode.

They are hooked below the Python code of their libraries. So a bound method is hooked, too, that
the program has kept since before.
"""

from __future__ import annotations

import re
from typing import Any

from flopcount.torch_private.method_hook import Methods

RUNNERS = {
    "AOTInductor package": [
        Methods("torch._C", f"_aoti.{cls}", ("run", "boxed_run"))
        for cls in (
            "AOTIModelPackageLoader",
            "AOTIModelContainerRunnerCpu",
            "AOTIModelContainerRunnerCuda",
            "AOTIModelContainerRunnerXpu",
            "AOTIModelContainerRunnerMps",
        )
    ],
    "inductor graph": [Methods("torch._inductor.output_code", "CompiledFxGraph", ("__call__",))],
    "onnxruntime.InferenceSession": [
        Methods(
            "onnxruntime.capi.onnxruntime_pybind11_state",
            "InferenceSession",
            (
                "run",
                "run_async",
                "run_with_iobinding",
                "run_with_ort_values",
                "run_with_ortvaluevector",
            ),
        )
    ],
    "tensorrt.IExecutionContext": [
        Methods(
            "tensorrt",
            "IExecutionContext",
            ("execute", "execute_async", "execute_v2", "execute_async_v2", "execute_async_v3"),
        )
    ],
}
"""What runs kernels that were compiled before, by the name that users know."""

TRITON = (
    Methods("triton.runtime.jit", "JITFunction", ("run",)),
    Methods("triton.runtime.interpreter", "InterpretedFunction", ("run",)),
)
"""What launches a kernel that a program has written in Triton, on an accelerator or without one."""

GRAPHS = {"torch.cuda.CUDAGraph": "_CUDAGraph", "torch.xpu.XPUGraph": "_XPUGraph"}
"""What captures kernels and runs them again: classes of users, and their bases in ``torch._C``."""


CAPTURE_END = "capture_end", "capture_end_pre"
"""What ends a capture: from torch 2.14 on its class of users calls the second, before the first."""


def graph_methods(base: str, *names: str) -> Methods:
    """Methods of a class of graphs: ``capture_begin``, ``replay``, or the ends of a capture."""
    return Methods("torch._C", base, names)


OWN_KERNEL = re.compile(r"async_compile\.(?!wait\()|load_pybinding")
"""How the source of a graph of inductor makes a kernel, or leaves Python altogether."""


def only_calls_ops(runner: Any) -> bool:
    """Whether ``runner`` is a graph of inductor without kernels: it calls ops, which are seen."""
    source = getattr(runner, "source_code", "")
    return isinstance(source, str) and source != "" and not OWN_KERNEL.search(source)
