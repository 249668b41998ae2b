"""torch's own pipeline schedules, with one rank."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import pipelining

from tests.programs.catalogue import Made, Row, chain, program

STAGE = {"": Row(6, 9, calls=3), "0": Row(3, 3, calls=3), "1": Row(3, 6, calls=3)}
"""A stage of two layers, and three micro-batches whose gradients nobody wants."""


def scheduled(device: str, schedule: Any) -> Made:
    """A step of ``schedule`` for one stage, in a process group that is made for it."""
    model = chain(device, 2)
    x, target = torch.randn(12, 8).to(device), torch.randn(12, 8).to(device)

    def step() -> Any:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            example = torch.empty(4, 8, device="meta")  # else the stage tries itself out first
            stage = pipelining.PipelineStage(
                model, 0, 1, torch.device(device), input_args=example, output_args=example
            )
            losses: list[Any] = []
            schedule(stage, n_microbatches=3, loss_fn=lambda y, t: (y - t).square().sum()).step(
                x, target=target, losses=losses
            )
            return losses
        finally:
            dist.destroy_process_group()

    return model, step


@program(STAGE)
def a_schedule_of_torch_that_runs_all_forwards_first(device: str) -> Made:
    """ScheduleGPipe: three times one step, 2 U and 1 + 2 U back."""
    return scheduled(device, pipelining.ScheduleGPipe)


@program(STAGE)
def a_schedule_of_torch_of_one_forward_and_one_backward_in_turn(device: str) -> Made:
    """Schedule1F1B: three times one step, 2 U and 1 + 2 U back."""
    return scheduled(device, pipelining.Schedule1F1B)


@program(STAGE)
def a_schedule_of_torch_that_splits_backward(device: str) -> Made:
    """ScheduleInterleavedZeroBubble: the gradients of inputs and of weights are computed apart,
    each once: three times one step, 2 U and 1 + 2 U back.
    """
    return scheduled(
        device, lambda stage, **kw: pipelining.ScheduleInterleavedZeroBubble([stage], **kw)
    )
