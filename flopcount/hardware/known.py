"""The devices that are known, by the names that drivers have for them. Peaks are dense.

A row has the peak of each kind of product that the datasheet gives, and what multiplies up to the
one of float16: the clock in MHz, FLOPs a clock and unit, and the number of units.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from flopcount.hardware.device import Device

T = 1e12

NVIDIA = "https://www.nvidia.com/en-us/data-center/"
HOPPER = (
    "https://nvdam.widen.net/s/95bdhpsgrs/nvidia_h100_tensor_core_gpu_architecture_whitepaper_v1.03"
)
DESIGN = "https://www.nvidia.com/en-us/design-visualization/"
FILES = "https://images.nvidia.com/aem-dam/"
AMPERE = (
    f"{FILES}en-zz/Solutions/geforce/ampere/pdf/"
    "NVIDIA-ampere-GA102-GPU-Architecture-Whitepaper-V1.pdf"
)
ADA = f"{FILES}Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
BLACKWELL = f"{FILES}Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf"
AMD = "https://www.amd.com/en/products/accelerators/instinct/"
BROCHURE = "https://www.amd.com/content/dam/amd/en/documents/instinct-tech-docs/product-briefs/"
MI350 = f"{BROCHURE}amd-instinct-mi350x-gpu-brochure.pdf"
MI355 = f"{BROCHURE}amd-instinct-mi355x-gpu-brochure.pdf"
"""Where the vendors' pages, whitepapers and brochures with the figures are."""


class Known(NamedTuple):
    """A device, what its drivers call it, and the three numbers that its peak is the product of.

    Older drivers leave out the ``NVIDIA`` before the name.
    """

    pattern: str
    device: Device
    check: tuple[float, int, int] | None


def _row(
    pattern: str,
    name: str,
    source: str,
    memory: float,
    vector: float,
    check: tuple[float, int, int] | None,
    **peaks: float,
) -> Known:
    """A row; figures are in TFLOP/s and, for the memory, in TB/s."""
    if "half" in peaks:
        peaks["float16"] = peaks["bfloat16"] = peaks.pop("half")
    peaks.setdefault("float32", vector)
    figures = {kind: peak * T for kind, peak in peaks.items()}
    return Known(pattern, Device(name, figures, memory * T, vector * T, source), check)


H100 = {"float64": 67.0, "tf32": 494.5, "half": 989.5, "float8": 1979.0, "int8": 1979.0}
H100_NVL = {"float64": 60.0, "tf32": 417.5, "half": 835.5, "float8": 1670.5, "int8": 1670.5}
A100 = {"float64": 19.5, "tf32": 156.0, "half": 312.0, "int8": 624.0}
MI300 = {"float64": 163.4, "tf32": 653.7, "half": 1307.4, "float8": 2614.9, "int8": 2614.9}

KNOWN = (
    # clock, FLOPs a clock and multiprocessor, multiprocessors; of some no clock is published
    _row("NVIDIA H100 80GB HBM3", "H100 SXM", f"{NVIDIA}h100/",
         3.35, 67, (1830, 4096, 132), **H100),
    _row("NVIDIA H100 PCIe", "H100 PCIe", HOPPER, 2.0, 51, (1620, 4096, 114),
         float64=51, tf32=378, half=756.5, float8=1513, int8=1513),
    _row("NVIDIA H100 NVL", "H100 NVL", f"{NVIDIA}h100/", 3.9, 60, None, **H100_NVL),
    _row("NVIDIA H200", "H200 SXM", f"{NVIDIA}h200/", 4.8, 67, (1830, 4096, 132), **H100),
    _row("NVIDIA H200 NVL", "H200 NVL", f"{NVIDIA}h200/", 4.8, 60, None, **H100_NVL),
    _row("NVIDIA GH200 (120|480)GB", "GH200", f"{NVIDIA}grace-hopper-superchip/",  # of the host
         4.0, 67, (1830, 4096, 132), **H100),
    _row("NVIDIA GH200 144G HBM3e", "GH200 144GB", f"{NVIDIA}grace-hopper-superchip/",
         4.9, 67, (1830, 4096, 132), **H100),
    _row("NVIDIA H800", "H800 SXM", "https://github.com/deepseek-ai/FlashMLA/issues/75",
         3.35, 67, (1830, 4096, 132), tf32=494.5, half=989.5, float8=1979, int8=1979),
    _row("NVIDIA B200", "B200", f"{NVIDIA}dgx-b200/", 8.0, 75, None,
         float64=37, tf32=1125, half=2250, float8=4500, int8=4500),
    _row("NVIDIA GB200", "GB200", f"{NVIDIA}gb200-nvl72/", 8.0, 80, None,
         float64=40, tf32=1250, half=2500, float8=5000, int8=5000),
    # the links of an A800 are slower than those of an A100, and nothing else
    _row("NVIDIA (A[18]00-SXM4-40GB|A100-PCIE-40GB|A100-PG509-200)", "A100 40GB", f"{NVIDIA}a100/",
         1.555, 19.5, (1410, 2048, 108), **A100),
    _row("NVIDIA (A[18]00-SXM4-80GB|A100-SXM-80GB|PG509-210)", "A100 SXM 80GB", f"{NVIDIA}a100/",
         2.039, 19.5, (1410, 2048, 108), **A100),
    _row("NVIDIA A[18]00 80GB PCIe( LC)?", "A100 PCIe 80GB", f"{NVIDIA}a100/",
         1.935, 19.5, (1410, 2048, 108), **A100),
    _row("NVIDIA A40", "A40", f"{NVIDIA}a40/", 0.696, 37.4, (1740, 1024, 84),
         tf32=74.8, half=149.7, int8=299.3),
    _row("NVIDIA A30", "A30", f"{NVIDIA}products/a30-gpu/", 0.933, 10.3, (1440, 2048, 56),
         float64=10.3, tf32=82, half=165, int8=330),
    _row("NVIDIA A10", "A10", f"{NVIDIA}products/a10-gpu/", 0.6, 31.2, (1695, 1024, 72),
         tf32=62.5, half=125, int8=250),
    _row("NVIDIA L40S", "L40S", f"{NVIDIA}l40s/", 0.864, 91.6, (2520, 1024, 142),
         tf32=183, half=362, float8=733, int8=733),
    _row("NVIDIA L40", "L40", f"{NVIDIA}l40/", 0.864, 90.5, (2490, 512, 142),
         tf32=90.5, half=181, float8=362, int8=362),
    _row("NVIDIA L4", "L4", f"{NVIDIA}l4/", 0.3, 30.3, (2040, 1024, 58),
         tf32=60, half=121, float8=242, int8=242),
    _row("(Tesla|NVIDIA) T4", "T4", f"{NVIDIA}tesla-t4/", 0.32, 8.1, (1590, 1024, 40),
         float16=65, int8=130),
    _row("(Tesla|NVIDIA) V100-SXM2-(16|32)GB(-LS|-N)?", "V100 SXM", f"{NVIDIA}v100/",
         0.9, 15.7, (1530, 1024, 80), float64=7.8, float16=125),
    _row("(Tesla|NVIDIA) V100-PCIE-(16|32)GB", "V100 PCIe", f"{NVIDIA}v100/",
         0.9, 14, (1380, 1024, 80), float64=7.0, float16=112),
    _row("(Tesla|NVIDIA) V100S-PCIE-32GB", "V100S PCIe", f"{NVIDIA}v100/",
         1.134, 16.4, (1597, 1024, 80), float64=8.2, float16=130),
    _row("NVIDIA RTX A6000", "RTX A6000", f"{DESIGN}rtx-a6000/", 0.768, 38.7, (1800, 1024, 84),
         tf32=77.4, half=154.8, int8=309.7),
    _row("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada", f"{DESIGN}rtx-6000/",
         0.96, 91.1, (2505, 1024, 142), tf32=182.1, half=364.2, float8=728.5, int8=728.5),
    # those of GeForce accumulate in float32, as training does
    _row("NVIDIA GeForce RTX 3090", "RTX 3090", AMPERE,
         0.936, 35.6, (1695, 512, 82), tf32=35.6, half=71, int8=284),
    _row("NVIDIA GeForce RTX 4090", "RTX 4090", ADA,
         1.008, 82.6, (2520, 512, 128), tf32=82.6, half=165.2, float8=330.3, int8=660.6),
    _row("NVIDIA GeForce RTX 5090", "RTX 5090", BLACKWELL,
         1.792, 104.8, (2407, 512, 170), tf32=104.8, half=209.5, float8=419, int8=838),
    # clock, FLOPs a clock and compute unit, compute units; a MI250X is two devices
    # "MI250X / MI250" is either, and has no row
    _row("AMD Instinct MI250X", "MI250X (one of two dies)", f"{AMD}mi200/mi250x.html",
         1.6, 23.95, (1700, 1024, 110), float64=47.9, float32=47.9, half=191.5, int8=191.5),
    _row("AMD Instinct MI300X( VF| HF| OAM)?", "MI300X", f"{AMD}mi300/mi300x.html",
         5.3, 163.4, (2100, 2048, 304), **MI300),
    _row("AMD Instinct MI325X( VF| OAM)?", "MI325X", f"{AMD}mi300/mi325x.html",
         6.0, 163.4, (2100, 2048, 304), **MI300),
    _row("AMD Instinct MI350X( VF| OAM)?", "MI350X", MI350,
         8.0, 144.2, (2200, 4096, 256), float64=72.1, half=2309.6, float8=4614, int8=4614),
    _row("AMD Instinct MI355X( VF| OAM)?", "MI355X", MI355,
         8.0, 157.3, (2400, 4096, 256), float64=78.6, half=2516.6, float8=5033.2, int8=5033.2),
)  # fmt: skip
"""All known devices."""


def find_device(name: str) -> Device | None:
    """The device that drivers, or people, call ``name``; None if none is known.

    >>> find_device("NVIDIA H100 80GB HBM3").peak("bfloat16")
    989500000000000.0
    >>> find_device("h100 sxm").bandwidth, find_device("Abacus")
    (3350000000000.0, None)
    """
    for known in KNOWN:
        names = (name, f"NVIDIA {name}")
        is_driver_name = any(re.fullmatch(known.pattern, one, re.IGNORECASE) for one in names)
        if is_driver_name or known.device.name.lower() == name.lower():
            return known.device
    return None
