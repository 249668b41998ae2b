"""What the nodes of a graph give: numbers, and tensors that have a shape and no data."""

import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from flopcount.formulas import plan_of
from flopcount.graph.higher_order import random_call, result_of_random
from flopcount.graph.sizes import Sizes, Unsized
from flopcount.torch_private.modes import FakeTensorMode
from flopcount.torch_private.ops import OpOverload, schema_of


class Values(dict[fx.Node, Any]):
    """The values of a graph's nodes in one run.

    A node whose shape depends on symbols without a size has an ``Unsized`` for a value. The
    graph's ``inputs`` have the shapes that it was traced with, if their values are not given.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        sizes: Sizes,
        fakes: FakeTensorMode,
        inputs: Sequence[Any] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self._sizes = sizes
        self._fakes = fakes
        if inputs is not None:
            self.update(zip(module.graph.find_nodes(op="placeholder"), inputs, strict=True))

    def __missing__(self, node: fx.Node) -> Any:
        raise ValueError(
            f"node {node.name!r} has no meta['val'], which tells the shape of its result: "
            "trace the program with make_fx, torch.export or AOT autograd"
        )

    def resolve(self, argument: Any) -> Any:
        """``argument`` with values in place of nodes; an ``Unsized`` if any of these is one."""
        unsized: set[str] = set()

        def value_of(node: fx.Node) -> Any:
            value = self[node]
            if isinstance(value, Unsized):
                unsized.update(value.symbols)
            return value

        resolved = fx.node.map_arg(argument, value_of)
        return Unsized(frozenset(unsized)) if unsized else resolved

    def add(self, node: fx.Node) -> None:
        """Find the value of ``node``, if its shape is known."""
        if missing := self._sizes.missing(node.meta.get("val")):
            self[node] = Unsized(missing)
        elif node.op == "get_attr":
            attribute = operator.attrgetter(str(node.target))(self.module)
            traced = node.meta.get("val", attribute)
            self[node] = self._fake(traced, getattr(attribute, "requires_grad", False))
        elif "val" in node.meta:
            self[node] = self._value(node, node.meta["val"])
        elif random := random_call(node):  # partitioners do not note its shape
            op, *arguments = random
            resolved = self.resolve(arguments)
            if not isinstance(resolved, Unsized):
                args, kwargs = resolved
                with self._fakes:
                    resolved = result_of_random(node, op(*args, **kwargs))
            self[node] = resolved

    def _value(self, node: fx.Node, traced: Any) -> Any:
        if node.op == "placeholder":
            return self._fake(traced, getattr(traced, "requires_grad", False))
        if node.target is operator.getitem:
            source, index = cast("Any", node.args)
            results = self.get(source)
            return results[index] if isinstance(results, (list, tuple)) else self._fake(traced)
        if isinstance(node.target, OpOverload) and (written := plan_of(node.target).written):
            returns = schema_of(node.target).returns
            if returns and all(result.alias_info is not None for result in returns):
                results = [
                    self.resolve(node.args[place] if place < len(node.args) else node.kwargs[name])
                    for place, name in written
                ]
                return results[0] if len(returns) == 1 else results
        inputs = (self.get(source) for source in node.all_input_nodes)
        needs_gradient = any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
        return self._fake(traced, needs_gradient and torch.is_grad_enabled())

    def _fake(self, traced: Any, requires_grad: bool = False) -> Any:
        """``traced`` with numbers for symbols, and tensors without data."""
        if isinstance(traced, (list, tuple)):
            return [self._fake(item, requires_grad) for item in traced]
        if not isinstance(traced, Tensor):
            return self._sizes.concrete(traced)
        if traced.layout != torch.strided or traced.is_nested:
            return traced
        is_differentiable = traced.is_floating_point() or traced.is_complex()
        with self._fakes:
            return torch.empty_strided(
                [self._sizes.concrete(size) for size in traced.shape],
                [self._sizes.concrete(stride) for stride in traced.stride()],
                dtype=traced.dtype,
                device=traced.device,
                requires_grad=requires_grad and is_differentiable,
            )
