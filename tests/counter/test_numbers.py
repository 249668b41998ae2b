"""A formula may look at any number among the arguments: each call costs what its numbers say.

Calls with equal signatures share one bill, in one counter and across counters. So a signature
holds every number exactly, except where the formula's rule says that a number does not matter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import flopcount
from flopcount import Cost, FlopCounter
from flopcount.counter.signature import signer
from flopcount.formulas import plan, plan_of, registry

aten = torch.ops.aten
x = torch.ones(1000)

libraries = itertools.count()


@pytest.fixture(autouse=True)
def rules_are_put_back() -> Iterator[None]:
    with registry.replaced():
        yield


def new_op(schema: str) -> Any:
    """An op ``(Tensor x, schema) -> Tensor`` of a library of its own, which gives ``x + 0``."""
    name = f"numbers{next(libraries)}::op"
    torch.library.define(name, f"(Tensor x, {schema}) -> Tensor")
    torch.library.impl(name, "CompositeExplicitAutograd", lambda x, *args, **kwargs: x.clone())
    namespace, _, packet = name.partition("::")
    return getattr(getattr(torch.ops, namespace), packet)


def flops(run: Callable[[], object], **options: Any) -> int:
    with FlopCounter(**options) as counter:
        run()
    return counter.report().total.flops


def kept(x: Tensor, keep: float, *, out: Tensor) -> Cost:
    return Cost(arith=int(keep * out.numel()))


class TestEveryWayToRegister:
    """1,000 elements, of which 10 % and then 70 % are kept: 100 and 700 FLOP."""

    def check(self, op: Callable[[float], object], **options: Any) -> None:
        # each in a counter of its own, then both in one
        assert flops(lambda: op(0.1), **options) == 100
        assert flops(lambda: op(0.7), **options) == 700
        assert flops(lambda: (op(0.1), op(0.7), op(0.1)), **options) == 900

    def test_the_decorator_on_an_op_of_a_library(self) -> None:
        op = new_op("float keep")
        flopcount.formula(op)(kept)
        self.check(lambda keep: op(x, keep))

    def test_the_decorator_on_a_custom_op(self) -> None:
        @torch.library.custom_op("numbers_custom::pruned", mutates_args=())
        def pruned(x: Tensor, keep: float) -> Tensor:
            return x.clone()

        flopcount.formula(pruned)(kept)
        self.check(lambda keep: pruned(x, keep))

    def test_the_decorator_by_name(self) -> None:
        op = new_op("float keep")
        flopcount.formula(op._qualified_op_name)(kept)
        self.check(lambda keep: op(x, keep))

    def test_the_decorator_on_an_op_of_torchs_own(self) -> None:
        with registry.replaced(lambda name, rule: None if name == "aten::lerp" else rule):
            flopcount.formula(aten.lerp)(lambda a, b, weight, *, out: kept(a, weight, out=out))
            self.check(lambda keep: torch.lerp(x, x, keep))

    def test_formulas_of_one_counter_for_an_op_of_a_library(self) -> None:
        op = new_op("float keep")
        self.check(lambda keep: op(x, keep), formulas={op: kept})

    def test_formulas_of_one_counter_for_an_op_of_torchs_own(self) -> None:
        lerp = {aten.lerp: lambda a, b, weight, *, out: kept(a, weight, out=out)}
        self.check(lambda keep: torch.lerp(x, x, keep), formulas=lerp)

    def test_formulas_of_one_counter_in_place_of_one_with_coefficients(self) -> None:
        mul = {aten.mul: lambda a, b, *, out: Cost(arith=int(b))}
        numbers = (3.0, 17.0, 18.0, 100.0)
        assert flops(lambda: [x * number for number in numbers], formulas=mul) == 138
        add = {aten.add: lambda a, b, *, alpha=1, out: Cost(arith=int(alpha))}
        run = lambda: [torch.add(x, x, alpha=number) for number in numbers]  # noqa: E731
        assert flops(run, formulas=add) == 138


def told(*args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """A cost that no two different values share: a call of each is seen in the sum."""
    args = (*args[1:], *kwargs.values())
    return Cost(arith=SEEN.setdefault(repr(args), 1 << len(SEEN)))


SEEN: dict[str, int] = {}
"""What :func:`told` was asked about, and the power of two that it answered."""

NUMBERS = {
    "float": ("float v", [0.1, 0.7, 1e-300, 1 + 2**-52, 17.0, 17.25, -0.1]),
    "zeros": ("float v", [0.0, -0.0]),
    "not a number": ("float v", [math.nan, 1.0, math.inf, -math.inf]),
    "keyword": ("*, float v", [0.1, 0.7]),
    "optional": ("float? v", [None, 0.1, 0.7, 0.0, -0.0]),
    "list": ("float[] v", [[0.1, 0.2], [0.1, 0.3], [0.1], [], [-0.0], [0.0]]),
    "optional list": ("float[]? v", [None, [0.1, 0.2], [0.2, 0.1]]),
    "keyword list": ("*, float[] v", [[0.1, 0.2], [0.1, 0.3]]),
    "int": ("int v", [0, 1, 2, 2**40]),
    "bool": ("bool v", [False, True]),
    "bools": ("bool[] v", [[False, True], [True, True]]),
    "scalar": (
        "Scalar v",
        [0, 1, 0.0, 1.0, -0.0, False, True, 0j, 1 + 0j, complex(0, -0.0), 2.5, 2.5 + 0j, 2.5 + 1j],
    ),
    "keyword scalar": ("*, Scalar v", [1, 1.0, True, 1 + 0j]),
    "scalars": (
        "Scalar[] v",
        [[1, 2], [1.0, 2], [1, 2.0], [True, 2], [1, True], [1, 1], [1j, 2], [2j, 2]],
    ),
    "complex": ("complex v", [1j, 2j, -1j, complex(-0.0, 1), complex(math.nan, 1)]),
    "string": ("str v", ["nan", "0.0", ""]),
}


class TestEveryKindOfNumber:
    @pytest.mark.parametrize("kind", NUMBERS)
    def test_each_value_has_a_cost_of_its_own(self, kind: str) -> None:
        schema, values = NUMBERS[kind]
        op = new_op(schema)
        call = (lambda v: op(x, v=v)) if schema.startswith("*") else (lambda v: op(x, v))
        SEEN.clear()
        flopcount.formula(op)(told)
        # every value once in each of two counters: a bill that two values share is seen in the sum
        for _ in range(2):
            assert flops(lambda: [call(value) for value in values]) == 2 ** len(values) - 1
        assert len(SEEN) == len(values)

    def test_one_that_is_not_a_number_is_asked_about_once(self) -> None:
        op = new_op("float v")
        asked = []
        flopcount.formula(op)(lambda x, v, *, out: asked.append(v) or Cost(arith=1))
        assert flops(lambda: [op(x, float("nan")) for _ in range(3)]) == 3
        assert len(asked) == 1

    def test_a_list_of_tensors_beside_a_list_of_numbers(self) -> None:
        op = new_op("Tensor[] tensors, float[] weights")
        flopcount.formula(op)(
            lambda x, tensors, weights, *, out: Cost(arith=int(sum(weights) * len(tensors)))
        )
        assert flops(lambda: (op(x, [x, x], [1.5, 2.5]), op(x, [x, x], [3.5, 2.5]))) == 8 + 12


class TestCoefficients:
    """Numbers that a rule says do not matter except as 0, as 1 and as another number."""

    VALUES = (0.0, 1.0, 0.1, 0.7, -3.0, math.nan, 16.5)

    def test_a_formula_is_asked_about_0_about_1_and_about_another(self) -> None:
        op = new_op("float lr, *, float[] betas")
        asked = []

        @flopcount.formula(op, coefficients=("lr", "betas"))
        def step(x: Tensor, lr: float, *, betas: list[float], out: Tensor) -> Cost:
            asked.append((lr, betas))
            return Cost(arith=0 if lr == 0 else 1 if lr == 1 else 2)

        values = self.VALUES
        total = flops(lambda: [op(x, v, betas=[w, v]) for v in values for w in values])
        assert total == len(values) * (0 + 1 + 5 * 2)
        assert len(asked) == 3 * 3

    def test_of_complex_numbers_those_that_are_real_are_told_apart(self) -> None:
        op = new_op("Scalar factor")
        flopcount.formula(op, coefficients=("factor",))(
            lambda x, factor, *, out: Cost(arith=6 if complex(factor).imag else 2)
        )
        assert flops(lambda: [op(x, v) for v in (3.3 + 0j, 3.3 + 1j, 2.2, 1 + 0j, 1j)]) == 18

    def test_whole_numbers_and_floats_are_of_two_kinds(self) -> None:
        op = new_op("Scalar factor")
        flopcount.formula(op, coefficients=("factor",))(
            lambda x, factor, *, out: Cost(arith=1 if isinstance(factor, int) else 100)
        )
        assert flops(lambda: [op(x, v) for v in (2, 2.0, 3, 3.0, 1, 1.0)]) == 303

    def test_other_parameters_stay_exact(self) -> None:
        op = new_op("float lr, float keep")
        flopcount.formula(op, coefficients=("lr",))(
            lambda x, lr, keep, *, out: kept(x, keep, out=out)
        )
        assert flops(lambda: (op(x, 0.3, 0.1), op(x, 0.4, 0.7))) == 800

    def test_a_parameter_that_no_op_has_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"no op has a parameter 'lrr'; there are 'lr', 'x'"):
            flopcount.formula(new_op("float lr"), coefficients=("lrr",))

    def test_a_bare_name_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"coefficients=\('lr',\)"):
            flopcount.formula(new_op("float lr"), coefficients="lr")


CALLS: dict[str, Callable[[Any], object]] = {
    "add": lambda n: torch.add(x, x, alpha=n),
    "add a number": lambda n: x + n,
    "sub": lambda n: torch.sub(x, x, alpha=n),
    "rsub": lambda n: n - x,
    "mul": lambda n: x * n,
    "div": lambda n: x / n,
    "floor_divide": lambda n: torch.div(x, n, rounding_mode="floor"),
    "addcmul": lambda n: torch.addcmul(x, x, x, value=n),
    "addcdiv": lambda n: torch.addcdiv(x, x, x, value=n),
    "lerp": lambda n: torch.lerp(x, x, n),
    "_foreach_add": lambda n: torch._foreach_add([x], [x], alpha=n),
    "_foreach_mul": lambda n: torch._foreach_mul([x], n),
    "_foreach_div": lambda n: torch._foreach_div([x, x], [n, 0.3]),
    "_foreach_lerp": lambda n: torch._foreach_lerp([x], [x], n),
    "_foreach_addcdiv": lambda n: torch._foreach_addcdiv([x], [x], [x], [n]),
    "_foreach_clamp_max": lambda n: torch._foreach_clamp_max([x], n),
    "batch_norm": lambda n: aten.native_batch_norm(
        x.view(10, 100), None, None, x[:100], x[:100], True, n, 1e-5
    ),
    "fused SGD": lambda n: aten._fused_sgd(
        [x], [x], [], weight_decay=n, momentum=0.0, lr=n, dampening=0.0, nesterov=False,
        maximize=False, is_first_step=False,
    ),
}  # fmt: skip


class TestOurOwnFormulas:
    """Numbers that share a signature cost the same when they are counted one by one."""

    @pytest.mark.parametrize("name", CALLS)
    @pytest.mark.parametrize("number", [0.3, -1.0, 2.0, 0.5, 1e-8, 123.0, 0.0, 1.0])
    def test_a_coefficient_costs_what_it_costs_alone(self, name: str, number: float) -> None:
        def cost() -> Cost:
            with FlopCounter() as counter:
                CALLS[name](number)
            return counter.report().total

        with FlopCounter():
            CALLS[name](0.7)  # its bill is there when the other number comes
        with_bills = cost()
        with registry.replaced():  # plans are made anew
            assert cost() == with_bills

    @pytest.mark.parametrize(
        ("scaling", "size"), [(1.3, 13), (1.7, 17), (2.0, 20)], ids=["1.3", "1.7", "2"]
    )
    def test_a_scaling_that_shapes_a_result(self, scaling: float, size: int) -> None:
        image = torch.ones(1, 1, 10, 10)

        def upsample(scale: float) -> Tensor:
            return torch.nn.functional.interpolate(image, scale_factor=scale, mode="bilinear")

        one = flops(lambda: upsample(scaling))
        assert upsample(scaling).shape[-1] == size
        assert flops(lambda: (upsample(3.0), upsample(scaling))) == one + flops(
            lambda: upsample(3.0)
        )

    @pytest.mark.parametrize("run", [torch.pow, torch.linalg.vector_norm])
    def test_powers_and_norms_of_any_exponent(self, run: Callable[..., Tensor]) -> None:
        powers = (0.5, 2.0, 3.0, 17.0, 2.7, -1.0)
        alone = [flops(partial(run, x, power)) for power in powers]
        assert flops(lambda: [run(x, power) for power in powers]) == sum(alone)


class TestMemory:
    """A number that is new at every step makes a signature at every step, and memory is bounded."""

    STEPS = 3000

    def op_of_many_numbers(self) -> Any:
        op = new_op("float lr")
        flopcount.formula(op)(lambda x, lr, *, out: Cost(arith=int(lr)))
        return op

    def test_a_users_formula_that_sees_a_new_number_at_every_step(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plan, "BILL_LIMIT", 64)
        monkeypatch.setattr("flopcount.counter.tally.TALLY_LIMIT", 64)
        op = self.op_of_many_numbers()
        with FlopCounter() as counter:
            for step in range(self.STEPS):
                op(x, float(step))
                assert len(counter._local.tally.counted) <= 64
        assert counter.report().total.flops == self.STEPS * (self.STEPS - 1) // 2
        assert len(plan_of(op.default).bills) <= 64

    def test_one_of_a_single_counter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plan, "BILL_LIMIT", 64)
        monkeypatch.setattr("flopcount.counter.tally.TALLY_LIMIT", 64)
        cost = {aten.mul: lambda a, b, *, out: Cost(arith=int(b))}
        with FlopCounter(formulas=cost) as counter:
            for step in range(self.STEPS):
                x * float(step)
        assert counter.report().total.flops == self.STEPS * (self.STEPS - 1) // 2
        assert len(counter._local.tally.counted) <= 64

    def test_a_coefficient_makes_no_new_signature(self) -> None:
        op = new_op("float lr")
        flopcount.formula(op, coefficients=("lr",))(lambda x, lr, *, out: Cost(arith=1))
        with FlopCounter() as counter:
            for step in range(100):
                op(x, step + 0.5)
        assert len(counter._local.tally.counted) == 1


def test_an_argument_of_an_unknown_kind_has_no_signature() -> None:
    """What cannot be compared may not be taken for equal."""
    decided = plan_of(aten.relu.default)
    assert signer(decided)("here", decided, (x, object()), {}, x) is None
    assert signer(decided)("here", decided, (x,), {"option": object()}, x) is None
