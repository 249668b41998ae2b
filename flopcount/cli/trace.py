"""``flopcount trace FILE``: what a recorded run cost, and how well it used its device."""

from __future__ import annotations

import warnings
from argparse import Namespace

from flopcount.cli.parser import CommandError
from flopcount.errors import UncountedOpWarning, UnknownDeviceError
from flopcount.hardware.device import Device
from flopcount.report.render.rates import render
from flopcount.report.report import Report
from flopcount.report.roofline import device_named
from flopcount.trace.read import read_trace


def run(options: Namespace) -> int:
    """Print the table of a recording, and write its report if a file is named."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncountedOpWarning)  # they are named below the table
        try:
            report = read_trace(options.file, options.steps)
        except OSError as error:
            raise CommandError(f"{options.file}: {error.strerror or error}") from error
    device = device_of(report, options.device)
    try:
        print(render(report, options.by, device, tf32=options.tf32))
        if options.output:
            report.save(options.output)
    except ValueError as error:
        raise CommandError(str(error)) from error
    return 0


def device_of(report: Report, name: str | None) -> Device | None:
    """The named device, or the one that was recorded, if its peaks are known."""
    recorded = report.run.devices if report.run else ()
    try:
        return device_named(name, recorded)
    except UnknownDeviceError:
        if name is not None:
            raise
        return None
