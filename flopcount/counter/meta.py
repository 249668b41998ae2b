"""Runs a program on shapes: tensors that would cost memory or work have no values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends import mha
from torch.nn.attention import SDPBackend, sdpa_kernel

from flopcount.counter.handlers import opens_itself
from flopcount.errors import FlopcountError
from flopcount.formulas import describe, plan_of
from flopcount.torch_private.compiler import never_compile
from flopcount.torch_private.modes import (
    ASKS_DEVICE,
    NEEDS_VALUES,
    NO_KERNEL,
    FakeTensor,
    FakeTensorMode,
    TorchDispatchMode,
    device_of,
    quiet_fakes,
)
from flopcount.torch_private.ops import is_higher_order
from flopcount.torch_private.tensors import tensors_in

KNOWN_SIZE = 1 << 20
"""Numbers in the largest tensor that has values."""

aten = torch.ops.aten

GROUPED = frozenset({aten._grouped_mm.default})
"""Products of any floats whose shapes torch tells for bfloat16 alone."""

SHAPED_BY_LENGTHS = frozenset(
    {aten._pack_padded_sequence.default, aten._ctc_loss.default, aten._ctc_loss.Tensor}
)
"""Ops whose whole-number operands tell the shapes of their results."""


@contextmanager
def shapes_only(model: nn.Module | None) -> Iterator[None]:
    """A context in which a program runs on shapes, and attention as on the meta device.

    Attention is opened into products, a softmax and a mask, whatever kernels a device has.

    Args:
        model: its modules' names tell where an op needs values.

    Raises:
        FlopcountError: the program needs values that are not computed.
    """
    fast, mode = mha.get_fastpath_enabled(), ShapesOnly()
    try:
        mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH), quiet_fakes(), mode:
            yield
    except FlopcountError:
        raise
    except Exception as error:
        if why := _why(error):
            op, failure = mode.failed
            what = op if failure is error else "the model"
            where = f" in {place}" if (place := _innermost(error, model)) else ""
            remedy = "count it on values, with meta=False"
            raise FlopcountError(f"{what}{where} {why}; {remedy}") from error
        raise
    finally:
        mha.set_fastpath_enabled(fast)
        mode.put_gradients_back()


def _why(error: Exception) -> str:
    """What went wrong, if it is for want of values; else the error is the program's own."""
    if isinstance(error, NEEDS_VALUES):
        return "needs the values of tensors that have only shapes here"
    if isinstance(error, NO_KERNEL) or WORDS.search(str(error)):
        reason = next(iter(str(error).splitlines()), "")
        return f"does not run on shapes alone ({type(error).__name__}: {reason})"
    return ""


WORDS = re.compile(
    r"[Ff]ake ?[Tt]ensor|\b(fake|meta)\b|tensor subclass|data pointer|is not alloc|hook result"
)
"""Words of torch's errors about tensors without data."""


def _innermost(error: Exception, model: nn.Module | None) -> str:
    """The innermost module whose method raised ``error``: its path in ``model``, or its class."""
    frames = (frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__))
    modules = [value for value in frames if isinstance(value, nn.Module)]
    if not modules:
        return ""
    named = {} if model is None else {id(m): name for name, m in model.named_modules()}
    return named.get(id(modules[-1])) or type(modules[-1]).__name__


class ShapesOnly(TorchDispatchMode):
    """A dispatch mode under which small tensors are computed, and the others only have shapes.

    A tensor is *known* if it is real, has at most KNOWN_SIZE numbers, and is neither a parameter
    nor needs a gradient: masks, lengths, positions, what a model reads. A single number is known
    anyhow. An op of known tensors runs. Any other op gives fake tensors, which are on the device
    of the real ones. What it would write into a real tensor is left out, and that tensor is not
    known any more.

    Attributes:
        failed: the last op that failed on shapes, with its arguments, and its error.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.failed: tuple[str, Exception | None] = "", None
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._leaves: dict[int, tuple[Tensor, Tensor | None, Tensor]] = {}  # gradients and fakes
        self._unknown: dict[int, Any] = {}  # storages that should have been written, by address

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in CountingMode

    def put_gradients_back(self) -> None:
        """Give each leaf the gradient that it had."""
        for leaf, gradient, _ in self._leaves.values():
            leaf.grad = gradient

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is ASKS_DEVICE:  # autograd asks for each gradient
            return device_of(args[0])
        kwargs = kwargs or {}
        operands = list(tensors_in(args, kwargs))
        if opens_itself(types, operands):
            return NotImplemented
        if is_higher_order(func):
            return func(*map(self._inside, args), **kwargs)
        if all(map(self._is_known, operands)):
            if operands or _size_of_new(args) <= KNOWN_SIZE:
                return func(*args, **kwargs)
        elif torch.Tag.inplace_view in func.tags and not isinstance(args[0], FakeTensor):
            return func(*args, **kwargs)  # it changes a shape, and no value
        try:
            return self._on_shapes(func, args, kwargs, operands)
        except Exception as error:
            self.failed = f"{func}({describe([*args, *kwargs.values()])})", error
            raise

    never_compile(__torch_dispatch__)

    def _is_known(self, tensor: Tensor) -> bool:
        if isinstance(tensor, FakeTensor) or tensor.is_meta or tensor.numel() > KNOWN_SIZE:
            return False
        if tensor.numel() > 1 and (tensor.requires_grad or isinstance(tensor, nn.Parameter)):
            return False
        return not self._unknown or _address(tensor) not in self._unknown

    def _inside(self, value: Any) -> Any:
        """``value``; if it is a function, then one whose ops this mode sees in its own handler."""
        if not callable(value):
            return value

        def run(*args: Any, **kwargs: Any) -> Any:
            with self:
                return value(*args, **kwargs)

        return run

    def _on_shapes(self, func: Any, args: Any, kwargs: Any, operands: list[Tensor]) -> Any:
        fakes = (tensor for tensor in operands if isinstance(tensor, FakeTensor))
        mode = next((fake.fake_mode for fake in fakes), self._fake)  # it may be the program's own
        if func in SHAPED_BY_LENGTHS and all(map(self._is_known, filter(_is_whole, operands))):
            out = func(*_map(_zeros, args), **kwargs)
            return _map(lambda tensor: tensor if _is_whole(tensor) else _faked(mode, tensor), out)
        func, args = self._by_rows(func, args)
        real: dict[int, Tensor] = {}

        def convert(tensor: Tensor) -> Tensor:
            fake = self._fake_of(mode, tensor)
            real[id(fake)] = tensor
            return fake

        fake_args, fake_kwargs = _map(convert, args), _map(convert, kwargs)
        with mode:
            out = _call(func, fake_args, fake_kwargs)
        for tensor in _written(func, args, kwargs):
            if not isinstance(tensor, FakeTensor):
                self._unknown[_address(tensor)] = tensor.untyped_storage()
        return _map(lambda tensor: real.get(id(tensor), tensor), out)

    def _fake_of(self, mode: Any, tensor: Tensor) -> Tensor:
        """A fake tensor of the same shape and dtype; that of a leaf is kept."""
        if isinstance(tensor, FakeTensor):
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return _faked(mode, tensor)
        _, gradient, fake = self._leaves.get(id(tensor), (tensor, tensor.grad, None))
        if fake is None:
            tensor.grad = None
        if fake is None or fake.shape != tensor.shape:
            fake = _faked(mode, tensor)
            self._leaves[id(tensor)] = tensor, gradient, fake
        return fake

    def _by_rows(self, func: Any, args: Any) -> tuple[Any, Any]:
        """Selection by a known mask as indexing by the rows that it picks: these have a shape."""
        if func is aten.masked_select.default and self._is_known(args[1]):
            shape = torch.broadcast_shapes(*(operand.shape for operand in args))
            rows = args[1].expand(shape).nonzero().unbind(1)
            return aten.index.Tensor, (args[0].expand(shape), list(rows))
        if func is aten.index.Tensor:
            picked: list[Any] = []
            for index in args[1]:
                if index is not None and index.dtype in MASKS and self._is_known(index):
                    picked += index.nonzero().unbind(1)
                else:
                    picked.append(index)
            return func, (args[0], picked)
        return func, args


MASKS = frozenset({torch.bool, torch.uint8})


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.dtype.is_floating_point or tensor.dtype.is_complex)


def _size_of_new(args: Any) -> int:
    """How many numbers a new tensor has, if its size is the op's first argument."""
    sizes = args[0] if args and isinstance(args[0], (list, tuple)) else ()
    return prod(size for size in sizes if isinstance(size, int))


def _zeros(tensor: Tensor) -> Tensor:
    return tensor if _is_whole(tensor) else torch.zeros(tensor.shape, dtype=tensor.dtype)


def _faked(mode: Any, tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        return mode.from_tensor(tensor.detach())  # type: ignore[no-any-return]
    device = "cpu" if tensor.is_meta else tensor.device
    size, strides = tensor.size(), tensor.stride()
    with mode:
        return torch.empty_strided(size, strides, dtype=tensor.dtype, device=device)


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of an op on fake tensors."""
    dtype = args[0].dtype if func in GROUPED else torch.bfloat16
    if dtype is torch.bfloat16:
        return func(*args, **kwargs)
    halved = _map(lambda t: t if _is_whole(t) else t.to(torch.bfloat16), args)
    return func(*halved, **kwargs).to(dtype)


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors that an op writes into."""
    for place, name in plan_of(func).written:
        yield from tensors_in(args[place] if place < len(args) else kwargs.get(name))


def _map(function: Callable[[Tensor], Any], value: Any) -> Any:
    """``value`` with each tensor in it replaced by what ``function`` makes of it."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (list, tuple):
        return type(value)([_map(function, item) for item in value])
    if type(value) is dict:
        return {name: _map(function, item) for name, item in value.items()}
    return value
