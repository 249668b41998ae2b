"""Programs of the catalogue, recorded and counted: products by phase, FLOPs by op and phase."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from flopcount import FlopCounter
from tests.programs import PROGRAMS
from tests.trace.recordings import flops, products, recorded

STOPPED = "the product at which a checkpoint stops is recorded, and on a CPU nothing tells so"
CACHED = "a selective checkpoint answers with what it saved; on a CPU nothing tells so"
NO_GRADIENTS = "recomputation without gradients, outside of modules, looks like backward"
IN_GRAPH = "a checkpoint outside of modules looks like the gradients' own graph"
KERNELS = "a kernel in Python is none of torch's ops, and its formula is not asked"
STEPS = "a step that torch does not mark, or its closure outside of modules, looks like any op"
DUAL = "torch records the tangents' products at once with those of their values"

DIFFER = {
    "a_checkpoint_that_is_not_reentrant": STOPPED,
    "a_checkpoint_of_a_product_of_the_models_own": STOPPED,
    "a_checkpoint_of_a_method": STOPPED,
    "a_checkpoint_of_a_lambda": STOPPED,
    "a_checkpoint_in_a_checkpoint": STOPPED,
    "a_checkpoint_in_a_reentrant_one": STOPPED,
    "a_checkpoint_used_twice_before_backward": STOPPED,
    "a_checkpoint_run_back_twice": STOPPED,
    "layers_handed_to_siblings_in_a_checkpoint_that_is_not_reentrant": STOPPED,
    "a_selective_checkpoint_that_saves_all_products": CACHED,
    "a_selective_checkpoint_that_saves_every_second_product": CACHED,
    "a_checkpoint_of_a_product_without_gradients": NO_GRADIENTS,
    "a_reentrant_checkpoint_of_a_product_without_gradients": NO_GRADIENTS,
    "a_checkpoint_in_a_pass_that_makes_a_graph": IN_GRAPH,
    "a_kernel_with_a_formula": KERNELS,
    "a_checkpointed_kernel_with_a_formula": KERNELS,
    "kernels_outside_of_modules": KERNELS,
    "two_steps_of_an_optimizer_without_its_init": STEPS,
    "a_step_around_another": STEPS,
    "a_step_around_one_without_its_init": STEPS,
    "the_closure_of_a_step_that_torch_tells": STEPS,
    "the_closure_of_a_step_without_hooks": STEPS,
    "an_average_of_weights_between_steps": STEPS,
    "dual_numbers_in_a_training_step": DUAL,
}
"""Programs whose products have other phases, or another number, and why."""

TANGENT = "a mode makes torch differentiate forward through other names: prims.mul, not aten.mul"

OPS_DIFFER = {
    "a_checkpoint_of_a_loss": STOPPED,
    "one_layer_of_three_checkpointed": STOPPED,
    "a_checkpoint_of_the_programs_own_after_one_of_torchs": STOPPED,
    "a_checkpoint_of_a_custom_function": STOPPED,
    "two_checkpoints_in_one_model": STOPPED,
    "a_hessian": TANGENT,
    "a_hessian_times_a_vector_by_forward_over_reverse": TANGENT,
}
"""Programs with the counter's products whose other ops differ, and why."""

PRINTING = {"two_tasks_that_wait_for_each_other_between_layers", "forwards_that_are_coroutines"}
"""Python 3.11 prints their tasks, tensors included; modes do not see what printing computes."""

NAMES = [
    name
    for name, program in PROGRAMS.items()
    # frames of a compiler are a recording of half a gigabyte; threads are not watched
    if not program.warns and "thread" not in name and "compiled" not in name
]


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """What torch has to say about unusual programs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", NAMES)
def test_it_costs_what_a_counter_counts(name: str) -> None:
    program = PROGRAMS[name]
    _, step = program.made("cpu", lambda: None)
    report = recorded(step)
    model, step = program.made("cpu", lambda: None)
    with FlopCounter(model) as counter:
        step()
    expected = counter.report()
    assert (products(report) != products(expected)) == (name in DIFFER)
    if name not in PRINTING:
        assert (flops(report) != flops(expected)) == (name in {**DIFFER, **OPS_DIFFER})


def test_reasons_are_of_programs_that_are_here() -> None:
    assert set(NAMES) >= {*DIFFER, *OPS_DIFFER}
