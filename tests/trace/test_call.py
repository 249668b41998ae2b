"""A recorded call is rebuilt as it was: its overload, dtypes, numbers, lists and defaults."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flopcount.torch_private.ops import overload_name
from flopcount.trace.call import (
    DTYPES,
    NUMBERED,
    Unknown,
    call_of,
    described,
    dtype_numbered,
    overload_of,
)
from flopcount.trace.events import LIST, Arguments

BF16, F32, I64 = "c10::BFloat16", "float", "long int"


def arguments(name: str, *items: Any, values: bool = True) -> Arguments:
    """Of each item: ``(dtype, shape)``, a number as text, shapes of a list, or nothing."""
    dims, types, texts = [], [], []
    for item in items:
        is_tensor, is_list = isinstance(item, tuple), isinstance(item, list)
        dims.append(item[1] if is_tensor else tuple(item) if is_list else ())
        number = "ScalarList" if str(item).startswith("[") else "Scalar"
        types.append(item[0] if is_tensor else LIST if is_list else number if item else "")
        texts.append("" if is_tensor or is_list else item)
    return Arguments(name, tuple(dims), tuple(types), None, tuple(texts) if values else None)


A, B = (F32, (4, 8)), (F32, (8, 2))


@pytest.mark.parametrize(
    ("recorded", "overload"),
    [
        (arguments("aten::mm", A, B), "default"),
        (arguments("aten::mm", A, B, (F32, (4, 2))), "out"),
        (arguments("aten::add", A, A, "1"), "Tensor"),
        (arguments("aten::add", A, "2.", "1"), "Scalar"),
        (arguments("aten::add", A, A, "1", A), "out"),
        (arguments("aten::sum", A, ""), "default"),
        (arguments("aten::sum", A, "[0]", "False", ""), "dim_IntList"),
        (arguments("aten::sum", A, "", "False", ""), "dim_IntList"),
        (arguments("aten::max", A), "default"),
        (arguments("aten::max", A, A), "other"),
        (arguments("aten::max", A, "1", "False"), "dim"),
        (arguments("aten::std", A, "[0]", "True", "False"), "dim"),
        (arguments("aten::std", A, "[0]", "1", "False"), "correction"),
        (arguments("aten::pow", A, "2"), "Tensor_Scalar"),
        (arguments("aten::pow", "2", A), "Scalar"),
        (arguments("aten::clamp", A, "0", ""), "default"),
        (arguments("aten::clamp", A, A, ""), "Tensor"),
        (arguments("aten::where", ("bool", (4, 8)), A, A), "self"),
        (arguments("aten::_foreach_add_", [(4, 8)], [(4, 8)], "1"), "List"),
        (arguments("aten::_foreach_add_", [(4, 8)], "1"), "Scalar"),
        (arguments("aten::_foreach_add_", [(4, 8)], "[1., 2.]"), "ScalarList"),
        (arguments("aten::empty", "[4, 8]", "6", "0", "", "", ""), "memory_format"),
        (arguments("aten::index_put_", A, "", A, "True"), None),
    ],
    ids=lambda item: item.name if isinstance(item, Arguments) else item,
)
def test_overloads_are_told_by_what_they_take(recorded: Arguments, overload: str | None) -> None:
    if overload is None:
        with pytest.raises(Unknown, match="its indices are not recorded"):
            call_of(recorded)
    else:
        assert overload_name(overload_of(recorded)[0]) == overload


def test_arguments_that_an_older_torch_did_not_have() -> None:
    """``addmm`` without its factors, attention without its scale."""
    call = call_of(arguments("aten::addmm", (F32, (2,)), A, B))
    assert (len(call.args), call.kwargs) == (3, {})
    q = (BF16, (1, 2, 8, 16))
    old = arguments("aten::_scaled_dot_product_flash_attention", q, q, q, "0.", "True")
    call = call_of(old)
    assert call.args[3:] == [0.0, True]
    assert call.op(*call.args, **call.kwargs)[0].shape == (1, 2, 8, 16)


def test_numbers_have_the_types_of_the_schema() -> None:
    items = "[1, 2]", "[0, 0]", "[1, 1]", "False", "[0, 0]", "1"
    call = call_of(
        arguments("aten::convolution", (F32, (1, 3, 8, 8)), (F32, (4, 3, 3, 3)), "", *items)
    )
    assert call.args[2:] == [None, [1, 2], [0, 0], [1, 1], False, [0, 0], 1]
    assert [type(item) for item in call.args[3]] == [int, int]
    call = call_of(arguments("aten::add", A, A, "0.5"))
    assert call.kwargs == {"alpha": 0.5}
    call = call_of(arguments("aten::sum", A, "[0]", "True", "7"))
    assert (call.args[1:], call.kwargs) == ([[0], True], {"dtype": torch.float64})
    call = call_of(arguments("aten::upsample_nearest2d", (F32, (1, 3, 4, 4)), "[8, 8]", "", ""))
    assert call.args[1:] == [[8, 8], None, None]
    call = call_of(arguments("aten::native_dropout", A, "1e-01", "True"))
    assert call.args[1:] == [0.1, True]
    call = call_of(arguments("aten::fill_", A, "-inf"))
    assert call.args[1] == -float("inf")


def test_all_is_on_the_meta_device() -> None:
    call = call_of(arguments("aten::zeros", "[4, 8]", "15", "0", "", "True"))
    assert call.op(*call.args, **call.kwargs).dtype is torch.bfloat16
    assert call.kwargs["device"] == torch.device("meta")
    assert "pin_memory" not in call.kwargs


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_that_has_a_name(name: str) -> None:
    (tensor,) = call_of(arguments("aten::detach", (name, (4,)))).args
    assert (tensor.dtype, tensor.shape, tensor.device.type) == (DTYPES[name], (4,), "meta")


@pytest.mark.parametrize("number", [n for n, name in enumerate(NUMBERED) if "bits" not in name])
def test_dtypes_by_number(number: int) -> None:
    """Ops take the numbers, too, and say what dtype they stand for."""
    dtype = dtype_numbered(number)
    if not NUMBERED[number].startswith("q"):
        out = torch.ops.aten.empty.memory_format([0], dtype=number, device="meta")
        assert out.dtype is dtype


def test_numbers_of_no_dtype() -> None:
    for number in (-1, len(NUMBERED)):
        with pytest.raises(Unknown, match=f"numbered {number}"):
            dtype_numbered(number)


def test_strides_tell_expanded_dimensions() -> None:
    recorded = Arguments("aten::neg", ((4, 8),), (F32,), ((0, 1),), ("",))
    assert call_of(recorded).args[0].stride() == (0, 1)
    recorded = Arguments("aten::neg", ((4, 8),), (F32,), ((),), ("",))  # of a tensor without any
    assert call_of(recorded).args[0].stride() == (8, 1)


@pytest.mark.parametrize(
    ("recorded", "is_number"),
    [
        (arguments("aten::mul", A, ("double", ())), True),  # x * 2.5
        (arguments("aten::mul", ("double", ()), A, A), True),  # inside a foreach op
        (arguments("aten::add_", (I64, ()), (I64, ()), "1"), True),  # batches += 1
        (arguments("aten::mul", ("double", (4,)), ("double", ())), True),
        (arguments("aten::mul", ("double", ()), ("double", ())), False),  # two losses
        (arguments("aten::mul", A, (F32, ())), False),  # x * loss
        (arguments("aten::neg", ("double", ())), False),
        (arguments("aten::add_", ("double", ()), A, "1"), False),  # it is written
    ],
)
def test_numbers_beside_tensors_are_numbers_again(recorded: Arguments, is_number: bool) -> None:
    call = call_of(recorded)
    assert any(isinstance(item, (int, float)) for item in call.args) == is_number


def test_a_product_with_a_number_keeps_the_dtype_of_its_tensor() -> None:
    call = call_of(arguments("aten::mul", (BF16, (4, 8)), ("double", ())))
    assert call.op(*call.args, **call.kwargs).dtype is torch.bfloat16
    call = call_of(arguments("aten::mul", ("int", (4, 8)), ("double", ())))
    assert call.op(*call.args, **call.kwargs).dtype is torch.float32


def test_lists_have_the_dtypes_that_are_given() -> None:
    recorded = arguments("aten::cat", [(2, 8), (3, 8)], "0")
    call = call_of(recorded, [torch.bfloat16, torch.float32])
    assert [t.dtype for t in call.args[0]] == [torch.bfloat16, torch.float32]
    assert call.op(*call.args).shape == (5, 8)
    with pytest.raises(Unknown, match="the dtypes of a list of tensors are not recorded"):
        call_of(recorded, [torch.bfloat16, None])
    with pytest.raises(Unknown, match="empty in the recording, as long lists are"):
        call_of(arguments("aten::cat", [], "0"))


def test_inside_transforms_arguments_are_recorded_twice() -> None:
    call = call_of(arguments("aten::mm", A, B, A, B))
    assert [tuple(t.shape) for t in call.args] == [(4, 8), (8, 2)]


@pytest.mark.parametrize(
    ("recorded", "reason"),
    [
        (arguments("mylib::mm", A, B), "this torch has no such op"),
        (arguments("aten::mmm", A, B), "this torch has no such op"),
        (arguments("aten::mm", A), "no overload of it takes float"),
        (arguments("aten::mm", A, "", B, "1"), "no overload of it takes float, None, float"),
        (arguments("aten::mm", A, ("c10::Float3", (8, 2))), "does not know the dtype c10::Float3"),
        (arguments("aten::add", A, A, "1", values=False), "its numbers were not recorded"),
        (arguments("aten::add", A, A, "many"), "'many' is no number"),
    ],
)
def test_what_cannot_be_rebuilt_says_why(recorded: Arguments, reason: str) -> None:
    with pytest.raises(Unknown, match=reason):
        call_of(recorded)


def test_arguments_in_short() -> None:
    recorded = arguments("aten::cat", [(2, 8), (3, 8)], "0")
    assert described(recorded) == "[[2, 8], [3, 8]], 0"
    recorded = arguments("aten::addmm", (BF16, (2,)), (BF16, (4, 8)), (BF16, (8, 2)), "1", "")
    assert described(recorded) == "bfloat16[2], bfloat16[4, 8], bfloat16[8, 2], 1"


@pytest.mark.parametrize(
    ("dims", "value"),
    [
        ((1 << 40, 1 << 40), "1"),  # more bytes than a number holds
        (((4, 8),), "1"),  # those of a list of tensors
        ((4, 8), "9" * 5000),
        ((4, 8), "one"),
    ],
)
def test_damaged_arguments_are_unknown(dims: Any, value: str) -> None:
    types = ("float", "float", "Scalar")
    recorded = Arguments("aten::add", (dims, dims, ()), types, None, ("", "", value))
    with pytest.raises(Unknown):
        call_of(recorded)
