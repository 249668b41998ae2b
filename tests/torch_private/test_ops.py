"""Ops, modes that see them, and the kinds of tensors that they take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flopcount.torch_private.compiler import has_symbolic_sizes
from flopcount.torch_private.frames import sharding_is_planned
from flopcount.torch_private.modes import (
    FakeTensorMode,
    is_traceable_wrapper_subclass_type,
    modes,
    pop_mode,
    push_mode,
    resolving_views,
    without_modes,
)
from flopcount.torch_private.ops import (
    DENSE_LAYOUTS,
    SPARSE_PARTS,
    CustomOpDef,
    HigherOrderOperator,
    OpOverload,
    OpOverloadPacket,
    all_overloads,
    bound_call,
    component_shapes,
    composite_kernel,
    custom_op_name,
    decomposition_of,
    has_kernel,
    has_nested_kernel,
    hides_grad_mode,
    is_composite,
    overload_name,
    packet_name,
    schema_of,
)
from tests.torch_private.ops import Ops

aten = torch.ops.aten


class TestBoundCall:
    def test_it_gives_what_the_op_gives(self) -> None:
        a, b = torch.rand(2, 3), torch.rand(3, 4)
        assert torch.equal(bound_call(aten.mm.default)(a, b), aten.mm.default(a, b))
        assert bound_call(aten.sum.dim_IntList)(a, [0], keepdim=True).shape == (1, 3)

    def test_it_passes_modes_on(self) -> None:
        with Ops(lambda func, args: func) as ops:
            bound_call(aten.exp.default)(torch.ones(2))
        assert aten.exp.default in ops.seen

    def test_another_callable_stays_itself(self) -> None:
        cond = torch.ops.higher_order.cond
        assert bound_call(cond) is cond


def test_wrapper_subclasses_are_told_from_tensors() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    assert is_traceable_wrapper_subclass_type(TwoTensor)
    assert not is_traceable_wrapper_subclass_type(Tensor)
    assert not is_traceable_wrapper_subclass_type(nn.Parameter)


class TestNamesOfOps:
    """What a plan reads of an op."""

    def test_an_overload_and_its_packet_have_one_name(self) -> None:
        add = torch.ops.aten.add
        assert packet_name(add) == packet_name(add.Tensor) == "aten::add"
        assert isinstance(add, OpOverloadPacket)
        assert isinstance(add.Tensor, OpOverload)

    def test_an_overload_has_a_name_of_its_own(self) -> None:
        assert overload_name(torch.ops.aten.add.Tensor) == "Tensor"
        assert overload_name(torch.ops.aten.mm.default) == "default"

    def test_a_custom_op_knows_its_name(self) -> None:
        @torch.library.custom_op("flopcount_private::named", mutates_args=())
        def named(x: Tensor) -> Tensor:
            return x.clone()

        assert isinstance(named, CustomOpDef)
        assert custom_op_name(named) == "flopcount_private::named"
        assert packet_name(torch.ops.flopcount_private.named) == custom_op_name(named)

    def test_the_kernel_of_a_composite_op_is_what_runs(self) -> None:
        x = torch.ones(2, 2)
        with Ops(lambda op, args: op) as ops:
            product = composite_kernel(aten.matmul.default)(x, x)
        assert product.equal(x @ x)
        assert ops.seen == [aten.mm.default]

    def test_a_higher_order_op_has_an_eager_kernel(self) -> None:
        from torch.nn.attention import flex_attention  # defines the op's kernels

        assert flex_attention
        assert callable(composite_kernel(torch.ops.higher_order.flex_attention))

    def test_all_overloads_are_there_those_of_libraries_too(self) -> None:
        library = torch.library.Library("private_tests", "FRAGMENT")
        library.define("listed(Tensor x) -> Tensor")
        overloads = set(all_overloads())
        assert {aten.mm.default, aten.mm.out, aten.add.Tensor} < overloads
        assert torch.ops.private_tests.listed.default in overloads

    def test_a_schema_tells_what_is_written_and_what_is_a_view(self) -> None:
        written, other, _ = schema_of(torch.ops.aten.add_.Tensor).arguments
        assert written.alias_info.is_write
        assert other.alias_info is None
        (view,) = schema_of(torch.ops.aten.t.default).returns
        assert not view.alias_info.is_write

    def test_a_higher_order_op_has_no_schema(self) -> None:
        assert schema_of(torch.ops.higher_order.cond) is None
        assert isinstance(torch.ops.higher_order.cond, HigherOrderOperator)
        assert not isinstance(torch.ops.aten.mm.default, HigherOrderOperator)

    def test_a_composite_kernel_is_found_beside_one_for_a_device(self) -> None:
        assert has_kernel(torch.ops.aten.linear.default, "CompositeImplicitAutograd")
        assert not has_kernel(torch.ops.aten.mm.default, "CompositeImplicitAutograd")

    def test_a_library_of_c_plus_plus_hides_whether_gradients_are_on(self) -> None:
        @torch.library.custom_op("seen::double", mutates_args=())
        def double(x: Tensor) -> Tensor:
            return 2 * x

        double.register_autograd(lambda ctx, g: 2 * g)
        assert not hides_grad_mode(torch.ops.seen.double.default)
        assert not hides_grad_mode(aten.mm.default)
        assert not hides_grad_mode(torch.ops.higher_order.cond)
        library = torch.library.Library("hiding", "DEF")
        library.define("double(Tensor x) -> Tensor")
        library.define("triple(Tensor x) -> Tensor")
        library.impl("double", lambda x: x, "Autograd")
        torch.library._impls.remove("hiding/double/Autograd")  # as if it were none of Python's
        assert hides_grad_mode(torch.ops.hiding.double.default)
        assert not hides_grad_mode(torch.ops.hiding.triple.default)

    def test_composites_are_those_that_decompose(self) -> None:
        x = torch.ones(2, 2)
        assert is_composite(torch.ops.aten.matmul.default)
        assert torch.ops.aten.matmul.default.decompose(x, x).equal(x @ x)
        assert not is_composite(torch.ops.aten.mm.default)
        # with a composite kernel, and one of its own for the CPU
        assert not is_composite(torch.ops.aten.mish_backward.default)

    @pytest.mark.parametrize("overload", ["mish.default", "mish_.default", "mish.out"])
    def test_a_decomposition_does_what_the_op_does(self, overload: str) -> None:
        packet, _, name = overload.partition(".")
        op = getattr(getattr(torch.ops.aten, packet), name)
        decomposition = decomposition_of(op)
        assert decomposition is not None
        x = torch.linspace(-3, 3, 7)
        assert decomposition(x.clone()).allclose(torch.nn.functional.mish(x))

    def test_an_op_with_a_composite_kernel_beside_its_own_is_taken_apart_by_it(self) -> None:
        assert decomposition_of(torch.ops.aten.matmul.default) is not None
        assert decomposition_of(torch.ops.aten.mm.default) is None

    def test_symbolic_sizes_are_told_from_numbers(self) -> None:
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        x = torch.ones(3, 4)
        symbolic = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(x)
        assert has_symbolic_sizes([1, (symbolic,)])
        assert not has_symbolic_sizes((x, FakeTensorMode().from_tensor(x), 2))


def test_a_coo_tensor_holds_values_and_their_places() -> None:
    twice = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor([2.0, 3.0]), (4,))
    assert not twice.is_coalesced()
    values, places = (part(twice) for part in SPARSE_PARTS[torch.sparse_coo])
    assert (values.tolist(), places.tolist()) == ([2, 3], [[1, 1]])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
class TestNestedTensors:
    def test_they_tell_the_shape_of_each_component_and_no_mode_sees_it(self) -> None:
        shapes = [(2, 4), (0, 4), (3, 4)]
        nested = torch.nested.nested_tensor([torch.ones(shape) for shape in shapes])
        with Ops(lambda func, args: func) as ops:
            assert component_shapes(nested) == shapes
            assert component_shapes(nested.transpose(1, 2)) == [(4, 2), (4, 0), (4, 3)]
        assert ops.seen == [aten.transpose.int]

    def test_of_no_component_and_of_scalars(self) -> None:
        assert component_shapes(torch.nested.nested_tensor([])) == []
        scalars = torch.nested.nested_tensor([torch.tensor(1.0), torch.tensor(2.0)])
        assert component_shapes(scalars) == [(), ()]

    def test_some_ops_have_a_kernel_of_their_own_for_them(self) -> None:
        assert has_nested_kernel(aten.matmul.default)
        assert has_nested_kernel(aten.linear.default)
        assert not has_nested_kernel(aten.softmax.int)
        assert not has_nested_kernel(aten.mm.default)


def test_modes_are_a_stack_on_which_handlers_are_not() -> None:
    inside: list[list[Any]] = []
    outer, inner = (Ops(lambda op, args: inside.append(modes())) for _ in range(2))
    assert modes() == []
    with outer:
        push_mode(inner)
        assert modes() == [outer, inner]
        torch.ones(1)
        pop_mode()
        assert modes() == [outer]
    assert inside == [[outer], []]
    assert modes() == []


def test_without_modes_no_mode_sees_anything_and_all_are_back_afterwards() -> None:
    class Functions(TorchFunctionMode):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.ones(2)
    with Functions() as functions, Ops(lambda func, args: func) as ops:
        with without_modes():
            torch.exp(x)
        torch.sin(x)
    assert functions.seen == [torch.sin]
    assert ops.seen == [aten.sin.default]


def test_in_a_handler_conjugated_views_are_resolved_only_if_that_is_asked_for() -> None:
    z = torch.tensor([1 + 2j])

    def look(op: Any, args: Any) -> list[Tensor]:
        taken = z.conj().exp()
        with resolving_views():
            return [taken, z.conj().exp()]

    with Ops(look) as ops:
        torch.ones(1)
    ((taken, resolved),) = ops.seen
    assert torch.equal(taken, z.exp())
    assert torch.equal(resolved, z.conj().exp())


def test_no_sharding_is_planned_without_dtensor() -> None:
    """That DTensor plans shardings is shown by the counts in ``attribution/test_dtensor.py``."""
    assert not sharding_is_planned()


def test_dense_layouts_hold_every_element() -> None:
    x = torch.ones(2, 3)
    assert x.layout in DENSE_LAYOUTS
    assert x.to_sparse().layout not in DENSE_LAYOUTS
    if torch.backends.mkldnn.is_available():
        assert x.to_mkldnn().layout in DENSE_LAYOUTS
