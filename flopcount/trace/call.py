"""The call behind a recorded op: its overload, and its arguments without their values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from flopcount.errors import in_one_line
from flopcount.torch_private.ops import (
    OpOverload,
    arguments_of,
    overloads_named,
    takes_numbers,
)
from flopcount.trace.events import LIST, Arguments

DTYPES = {
    "float": torch.float32,
    "double": torch.float64,
    "c10::Half": torch.float16,
    "c10::BFloat16": torch.bfloat16,
    "unsigned char": torch.uint8,
    "signed char": torch.int8,
    "short": torch.int16,
    "short int": torch.int16,
    "int": torch.int32,
    "long": torch.int64,
    "long int": torch.int64,
    "long long": torch.int64,
    "__int64": torch.int64,
    "unsigned short": torch.uint16,
    "short unsigned int": torch.uint16,
    "unsigned int": torch.uint32,
    "unsigned long": torch.uint64,
    "long unsigned int": torch.uint64,
    "unsigned long long": torch.uint64,
    "bool": torch.bool,
    "c10::complex<c10::Half>": torch.complex32,
    "c10::complex<float>": torch.complex64,
    "c10::complex<double>": torch.complex128,
    "c10::qint8": torch.qint8,
    "c10::quint8": torch.quint8,
    "c10::qint32": torch.qint32,
    "c10::Float8_e4m3fn": torch.float8_e4m3fn,
    "c10::Float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "c10::Float8_e5m2": torch.float8_e5m2,
    "c10::Float8_e5m2fnuz": torch.float8_e5m2fnuz,
    "c10::Float8_e8m0fnu": torch.float8_e8m0fnu,
    "c10::Float4_e2m1fn_x2": torch.float4_e2m1fn_x2,
}
"""The dtypes of the names that C++ compilers have for them."""

NUMBERED = (
    "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
    "complex32", "complex64", "complex128", "bool", "qint8", "quint8", "qint32", "bfloat16",
    "quint4x2", "quint2x4", "bits1x8", "bits2x4", "bits4x2", "bits8", "bits16",
    "float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz", "float8_e4m3fnuz",
    "uint16", "uint32", "uint64", "uint1", "uint2", "uint3", "uint4", "uint5", "uint6", "uint7",
    "int1", "int2", "int3", "int4", "int5", "int6", "int7", "float8_e8m0fnu", "float4_e2m1fn_x2",
)  # fmt: skip
"""The dtypes in the order of their numbers in C++, as in torch's c10/core/ScalarType.h."""

NUMBERS = {"Scalar", "ScalarList"}
ABSENT = {"", "None", "nullptr (uninitialized)"}
"""What stands for an argument that is no tensor and no number, or not there."""

MOST_TRANSFORMS = 5
"""Arguments of how many calls of one op, inside one another, are recorded at most."""

WRAPPED = {torch.float64: 2.5, torch.int64: 2, torch.complex128: 2.5j}
"""Dtypes that numbers have which stand for a tensor, as in ``x * 3``, and a number of each.

The recording shows tensors without dimensions in their place. Which number it was is not recorded.
"""


class Unknown(Exception):
    """A call cannot be rebuilt: why."""


class MetaCall(NamedTuple):
    """A call on the meta device."""

    op: OpOverload
    args: list[Any]
    kwargs: dict[str, Any]


def call_of(recorded: Arguments, list_dtypes: Sequence[Any] = ()) -> MetaCall:
    """The call that was recorded.

    Args:
        recorded: the op and its arguments.
        list_dtypes: the dtypes of the tensors in lists, in order, which are not recorded.

    Raises:
        Unknown: this torch does not know the op, an overload for these arguments, or a dtype.
    """
    op, recorded = overload_of(recorded)
    dtypes = iter(list_dtypes)
    try:
        values = [
            _value(recorded, place, argument, dtypes)
            for place, argument in enumerate(arguments_of(op)[: len(recorded.dims)])
        ]
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise Unknown(f"its arguments are damaged: {in_one_line(error)}") from error
    if takes_numbers(op):
        _unwrap(arguments_of(op), values)
    args, kwargs = [], {}
    for place, argument in enumerate(arguments_of(op)):
        if argument.name == "device":
            kwargs["device"] = torch.device("meta")
        elif place >= len(values) or argument.name == "pin_memory":
            continue
        elif argument.kwarg_only:
            if values[place] is not None or not argument.has_default_value():
                kwargs[argument.name] = values[place]
        else:
            args.append(values[place])
    return MetaCall(op, args, kwargs)


def overload_of(recorded: Arguments) -> tuple[OpOverload, Arguments]:
    """The overload whose parameters take the recorded arguments, and these.

    An older torch recorded fewer arguments: those that came later have defaults. Inside transforms
    such as ``vmap`` it records those of the calls around, too, before them.
    """
    overloads = overloads_named(recorded.name)
    if not overloads:
        raise Unknown("this torch has no such op")
    number = len(recorded.types)
    divisors = (times for times in range(2, MOST_TRANSFORMS + 1) if number % times == 0)
    for arguments in (recorded, *(recorded.last(number // times) for times in divisors)):
        fitting = [op for op in overloads if _takes(arguments_of(op), arguments)]
        if fitting:
            best = min(fitting, key=lambda op: (len(arguments_of(op)), _strain(op, arguments)))
            return best, arguments
    raise Unknown(f"no overload of it takes {', '.join(map(_shown, recorded.types))}")


def _strain(op: OpOverload, recorded: Arguments) -> int:
    """How many arguments are less than a perfect fit: some overloads take the same kinds."""
    values = recorded.values or [""] * len(recorded.types)
    strain = 0
    for parameter, kind, text in zip(arguments_of(op), recorded.types, values, strict=False):
        base, is_optional = _base(parameter)
        strain += kind in ABSENT and not is_optional
        strain += kind == "Scalar" and (base == "bool") != (text in ("True", "False"))
    return strain


def _shown(kind: str) -> str:
    return kind or "None"


def _takes(parameters: list[Any], recorded: Arguments) -> bool:
    number = len(recorded.dims)
    later = parameters[number:]
    return (
        number <= len(parameters)
        and len(recorded.types) == number
        and all(parameter.has_default_value() for parameter in later)
        and all(map(_fits, parameters, recorded.types))
    )


def _fits(parameter: Any, kind: str) -> bool:
    """Whether a parameter takes an argument of this recorded kind."""
    base, is_optional = _base(parameter)
    if kind in ABSENT:  # strings, devices and generators are not recorded either
        return is_optional or base not in (*TAKES, "Tensor", "List[Tensor]")
    if kind in NUMBERS:
        return kind in TAKES.get(base, ())
    if kind == LIST:
        return base in ("List[Tensor]", "List[Optional[Tensor]]")
    return base == "Tensor"


TAKES = {
    "int": ("Scalar",),
    "float": ("Scalar",),
    "complex": ("Scalar",),
    "bool": ("Scalar",),
    "number": ("Scalar",),
    "ScalarType": ("Scalar",),
    "Layout": ("Scalar",),
    "MemoryFormat": ("Scalar",),
    "List[int]": ("ScalarList", "Scalar"),
    "List[float]": ("ScalarList", "Scalar"),
    "List[bool]": ("ScalarList", "Scalar"),
    "List[number]": ("ScalarList", "Scalar"),
}
"""The recorded kinds of numbers that parameters take, by the types of their schemas."""


def _base(parameter: Any) -> tuple[str, bool]:
    """The type of a parameter, and whether it may be None."""
    kind = str(parameter.real_type)
    if kind.startswith("Optional["):
        return kind[len("Optional[") : -1], True
    return kind, False


def _value(recorded: Arguments, place: int, parameter: Any, dtypes: Iterator[Any]) -> Any:
    """The argument at ``place``; tensors are on the meta device."""
    kind, (base, _) = recorded.types[place], _base(parameter)
    if kind == LIST:
        is_optional = base == "List[Optional[Tensor]]"
        shapes = recorded.dims[place]
        lists = zip(recorded.types, recorded.dims, strict=True)
        if not any(dims for other, dims in lists if other == LIST):
            raise Unknown("a list of its tensors is empty in the recording, as long lists are")
        strides = recorded.strides[place] if recorded.strides else [None] * len(shapes)
        listed = [(*item, next(dtypes)) for item in zip(shapes, strides, strict=True)]
        if any(dtype is None for _, _, dtype in listed):
            raise Unknown("the dtypes of a list of tensors are not recorded, nor told by others")
        return [None if is_optional and not item[0] else _tensor(*item) for item in listed]
    if kind in NUMBERS:
        if recorded.values is None:
            raise Unknown("its numbers were not recorded")
        return _number(recorded.values[place], base)
    if kind in ABSENT:
        if base.startswith("List[") and not parameter.has_default_value():
            raise Unknown(f"its {parameter.name} are not recorded")
        return parameter.default_value if parameter.has_default_value() else None
    if kind not in DTYPES:
        raise Unknown(f"this torch does not know the dtype {kind}")
    strides = recorded.strides[place] if recorded.strides else None
    return _tensor(recorded.dims[place], strides, DTYPES[kind])


def _tensor(shape: Any, strides: Any, dtype: torch.dtype) -> torch.Tensor:
    if strides is None or len(strides) != len(shape):
        return torch.empty(shape, dtype=dtype, device="meta")
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


def _number(text: str, base: str) -> Any:
    """The number, or the list of numbers, in ``text``."""
    if text.startswith("["):
        inner = base.removeprefix("List[").removesuffix("]")
        return [_number(item.strip(), inner) for item in text[1:-1].split(",") if item.strip()]
    if base.startswith("List["):
        return [_number(text, base[len("List[") : -1])]
    if text in ("True", "False"):
        return text == "True"
    if text == "":
        return None
    if base == "ScalarType":
        return dtype_numbered(int(text))
    try:
        number = complex(text) if "j" in text else float(text)
    except ValueError as error:
        raise Unknown(f"{text!r} is no number") from error
    is_whole = text.lstrip("-").isdigit() and base != "float"
    return int(text) if is_whole else bool(number) if base == "bool" else number


def dtype_numbered(number: int) -> torch.dtype:
    """The dtype that C++ numbers so."""
    if not 0 <= number < len(NUMBERED):
        raise Unknown(f"this torch does not know the dtype numbered {number}")
    dtype: torch.dtype = getattr(torch, NUMBERED[number])
    return dtype


def _unwrap(parameters: list[Any], values: list[Any]) -> None:
    """Put numbers back where the recording shows tensors without dimensions."""
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    for place, value in enumerate(values):
        parameter = parameters[place]
        if (
            isinstance(value, torch.Tensor)
            and value.dim() == 0
            and value.dtype in WRAPPED
            and len(tensors) > 1
            and parameter.alias_info is None
            and not parameter.kwarg_only
            and any(_outranks(other, value) for other in tensors if other is not value)
        ):
            values[place] = WRAPPED[value.dtype]


def _outranks(other: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether a program would rather have written a number than ``value`` beside ``other``.

    A counter of steps has no dimension either: ``batches += 1``.
    """
    return other.dim() > 0 or other.dtype != value.dtype or value.dtype is torch.int64


def operands_of(recorded: Arguments) -> list[Any]:
    """What a kernel takes, which no schema tells: tensors on the meta device, and numbers."""
    operands: list[Any] = []
    strides = recorded.strides or [None] * len(recorded.dims)
    values = recorded.values or [""] * len(recorded.dims)
    items = zip(recorded.dims, recorded.types, strides, values, strict=True)
    for shape, kind, stride, text in items:
        if kind in DTYPES:
            operands.append(_tensor(shape, stride, DTYPES[kind]))
        else:
            operands.append(_number(text, "number") if text else None)
    return operands


def shapes_of(recorded: Arguments) -> Iterator[tuple[tuple[int, ...], torch.dtype]]:
    """The shape and the dtype of each tensor among the arguments whose dtype is known."""
    for shape, kind in zip(recorded.dims, recorded.types, strict=False):
        if kind in DTYPES:
            yield shape, DTYPES[kind]


def size_of(recorded: Arguments) -> int:
    """Bytes of these tensors, each once."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes_of(recorded))


def dtype_name(recorded: Arguments) -> str:
    """The dtype of the work that is likely: the first floating-point one among the arguments."""
    dtypes = [dtype for _, dtype in shapes_of(recorded)]
    floats = [dtype for dtype in dtypes if dtype.is_floating_point or dtype.is_complex]
    first = next(iter(floats + dtypes), None)
    return str(first).removeprefix("torch.") if first else "unknown"


def described(recorded: Arguments) -> str:
    """The arguments in short: ``bfloat16[8, 16], bfloat16[16, 4], 1``."""
    values = recorded.values or [""] * len(recorded.types)
    words = []
    for shape, kind, value in zip(recorded.dims, recorded.types, values, strict=False):
        if kind in DTYPES:
            words.append(f"{str(DTYPES[kind]).removeprefix('torch.')}{list(shape)}")
        elif kind == LIST:
            words.append(f"[{', '.join(str(list(item)) for item in shape)}]")
        elif kind not in ABSENT:
            words.append(value or f"{kind}{list(shape)}")
    return ", ".join(words)
