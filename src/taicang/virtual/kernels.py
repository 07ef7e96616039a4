"""What runs when the program calls an operator on the virtual device: shapes, known values, and a line in the log.

Shapes come from PyTorch's own shape rules (its "meta" kernels). Small tensors whose values are known are computed on
the host, as far as they follow from what the program said: token ids, masks, counters, loss scales. What is not known
stays so; where the program reads it, ``values`` invents it and tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from taicang.virtual import values
from taicang.virtual.capture import KERNEL, WAIT_STREAM
from taicang.virtual.device import Device
from taicang.virtual.operators import STATISTICS, Kernel, Spec, kernel
from taicang.virtual.spec import NeedsDevice

KNOWN_BYTES = 1 << 22
"""Integers and booleans of up to so many bytes keep their values."""
HOSTED = 1 << 26
"""Elements with which the host tries an operator that has no shape rule."""
KNOWN_FLOATS = 1 << 12
"""Floating-point tensors of up to so many elements do."""
DEVICE = torch._C._get_privateuse1_backend_name()
WRITERS = {"zero", "fill", "arange", "full", "ones", "zeros", "eye", "linspace", "random", "randperm", "tril_indices",
           "triu_indices", "scalar_tensor"}  # fmt: skip
"""Operators whose first operand is written, not read."""
DRAWN = {"normal", "uniform", "bernoulli", "exponential", "native_dropout", "rand", "randn", "log_normal", "geometric",
         "cauchy"}  # fmt: skip
"""Random numbers with a fraction: their values are not kept."""
NOTES: dict[str, None] = {}
"""What is told at the end of the run."""
FREE = {"is_pinned", "record_stream", "detach", "alias", "_has_compatible_shallow_copy_type", "is_set_to", "sym_size"}


class Recorder:
    """The kernels of one rank: distinct ones in a table, launches in the device's log."""

    def __init__(self, device: Device, *, real: bool = False) -> None:
        self.device = device
        self.real = real
        """Compute everything (functional mode)."""
        self.table: list[Kernel] = []
        self.ids: dict[Any, int] = {}
        self.optimizer = 0
        """How deep in steps of optimizers the program is."""
        self.rules: dict[Any, _Plan] = {}
        self.operands: list[tuple[int, int, int]] = []
        """Place in the log, allocation, bytes that are read or (negative) written."""

    def phase(self) -> str:
        """What part of a step runs now."""
        if self.optimizer:
            return "optimizer"
        if torch._C._current_graph_task_id() != -1:
            return "recompute" if torch.is_grad_enabled() else "backward"
        return "forward"

    def launch(self, name: str, ins: Sequence[Tensor], outs: Sequence[Tensor], given: dict[str, Any]) -> None:
        """Put one kernel into the log of the current stream."""
        phase = self.phase()
        read, written = tuple(map(spec, ins)), tuple(map(spec, outs))
        key = (name, phase, read, written, tuple(sorted(given.items())) if given else ())
        at = self.ids.get(key)
        if at is None:
            at = self.add(key, kernel(name, phase, read, written, given))
        place, number = self.device.note(KERNEL, at), self.device.number
        for tensors, specs, sign in ((ins, read, 1), (outs, written, -1)):
            for each, about in zip(tensors, specs, strict=True):
                self.operands.append((place, number(base(each)), sign * about.touched_bytes))

    def carry(self, place: int, tensors: Sequence[Tensor]) -> None:
        """Remember what a collective at ``place`` of the log reads, and may write."""
        for each in tensors:
            if each.device.type == DEVICE:
                size = each.numel() * each.itemsize
                at = self.device.number(base(each))
                self.operands += [(place, at, size), (place, at, -size)]

    def add(self, key: Any, made: Kernel) -> int:
        """A new line of the table."""
        at = self.ids[key] = len(self.table)
        self.table.append(made)
        return at


class _Plan:
    """What is to be known of an operator's schema, once: which operands it writes, and what it returns of them."""

    def __init__(self, op: Any) -> None:
        schema = op._schema
        self.name = schema.name.split("::")[1]
        self.base = self.name.rstrip("_") or self.name
        self.written: list[tuple[int, str]] = []
        self.sets: dict[str, tuple[int, str]] = {}
        self.out = False
        for i, argument in enumerate(schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                place = (-1 if argument.kwarg_only else i, argument.name)
                self.written.append(place)
                self.out |= argument.is_out
                for name in argument.alias_info.before_set:
                    self.sets[name] = place
        self.returns: list[tuple[int, str] | None] = []
        for each in schema.returns:
            names = list(each.alias_info.before_set) if each.alias_info is not None and each.alias_info.is_write else []
            self.returns.append(self.sets.get(names[0]) if names else None)
        self.writer = self.base in WRITERS
        self.tensors = frozenset(i for i, each in enumerate(schema.arguments) if str(each.type) == "Tensor")

    @staticmethod
    def pick(place: tuple[int, str], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The argument at a place of the schema."""
        at, name = place
        return args[at] if 0 <= at < len(args) else kwargs.get(name)


def tensors_of(values: Any) -> Iterator[Tensor]:
    """All tensors in arguments."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple, dict)):
        for each in values.values() if isinstance(values, dict) else values:
            yield from tensors_of(each)


def mapped(values: Any, change: Callable[[Tensor], Any]) -> Any:
    """Arguments with their tensors changed."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, (list, tuple)):
        return type(values)([mapped(each, change) for each in values])
    return {name: mapped(each, change) for name, each in values.items()} if isinstance(values, dict) else values


def spec(tensor: Tensor) -> Spec:
    """Shape, type and bytes that it spans: what is expanded is read once."""
    touched = tensor.itemsize
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        touched *= size if stride else min(size, 1)
    return Spec(tuple(tensor.shape), str(tensor.dtype)[6:], touched)


def form(value: Any) -> Any:
    """What a shape rule sees of an argument."""
    if isinstance(value, Tensor):
        return value.size(), value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(map(form, value))
    return type(value), None if isinstance(value, torch.Generator) else value


def meta(tensor: Tensor) -> Tensor:
    """Its shape alone."""
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def base(tensor: Tensor) -> int:
    """Address of its storage."""
    return tensor.untyped_storage().data_ptr()


def whole(tensor: Tensor) -> bool:
    """Whether it is all of its storage."""
    return tensor.numel() * tensor.itemsize >= tensor.untyped_storage().nbytes()


class Kernels:
    """The fallback of the virtual device for every operator that PyTorch does not compose of others."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.device = recorder.device
        self.special: dict[str, Callable[..., Any]] = {}
        self.formed: dict[Any, list[Any]] = {}
        """By operator and form of its operands: each output's size, strides and type, or the operand that it is."""
        self.host: Any = torch.ops.taicang.host.default

    def __call__(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """What the dispatcher calls."""
        plan = self.recorder.rules.get(op)
        if plan is None:
            plan = self.recorder.rules[op] = _Plan(op)
        for each in args:
            if isinstance(each, Tensor) and each.device.type == DEVICE:
                if each.get_device() != torch.accelerator.current_device_index():
                    return self._elsewhere(each.get_device(), op, args, kwargs)
                break
        if any(type(args[i]) in NUMBERS for i in plan.tensors if i < len(args)):  # the dispatcher unwraps them
            args = tuple(torch.tensor(a) if i in plan.tensors and type(a) in NUMBERS else a for i, a in enumerate(args))
        if (special := self.special.get(plan.base)) is not None:
            return special(self, op, plan, args, kwargs)
        return self.run(op, plan, args, kwargs)

    def _elsewhere(self, device: int, op: Any, args: Any, kwargs: Any) -> Any:
        """On the device of the first operand, as PyTorch does."""
        before = torch.accelerator.current_device_index()
        torch.accelerator.set_device_index(device)
        NOTES["several devices in one process: their kernels run one after the other"] = None
        try:
            return self(op, *args, **kwargs)
        finally:
            torch.accelerator.set_device_index(before)

    def run(
        self, op: Any, plan: _Plan, args: Sequence[Any], kwargs: dict[str, Any], given: Any = None, name: str = ""
    ) -> Any:
        """Shapes, values where they are known, a line in the log; returns what the operator returns."""
        outputs = self.shapes(op, plan, args, kwargs)
        written = [
            t for place in plan.written for t in tensors_of(plan.pick(place, args, kwargs)) if t.device.type == DEVICE
        ]
        mine = {id(t) for t in written}
        fresh = [t for t in tensors_of(outputs) if id(t) not in mine]
        self.settle(op, plan, args, kwargs, outputs, written, fresh)
        if plan.base not in FREE:
            self.log(plan, args, kwargs, written, fresh, given, name)
        return outputs

    def shapes(self, op: Any, plan: _Plan, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """New outputs, empty tensors of the device: by the shape rule, or as it said for operands of the same form."""
        key = (op, form(args), form(tuple(kwargs.items())))
        known = self.formed.get(key)
        if known is not None:
            made = [
                torch.empty_strided(place[0], place[1], dtype=place[2], device=DEVICE)
                if len(place) == 3
                else plan.pick(place, args, kwargs)
                for place in known
            ]
            return made[0] if len(plan.returns) == 1 else tuple(made)
        made = self.ruled(op, plan, args, kwargs)
        results = made if isinstance(made, tuple) else (made,)
        if len(results) == len(plan.returns) and all(isinstance(each, Tensor) for each in results):
            found = form((args, tuple(kwargs.items())))
            if found == (key[1], key[2]):  # nothing was resized
                self.formed[key] = [
                    place or (each.size(), each.stride(), each.dtype)
                    for each, place in zip(results, plan.returns, strict=True)
                ]
        return made

    def ruled(self, op: Any, plan: _Plan, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run the shape rule."""
        there: dict[int, Tensor] = {}

        def away(tensor: Tensor) -> Tensor:
            return there.setdefault(id(tensor), meta(tensor))

        moved, named = mapped((args, kwargs), away)
        if "device" in named and named["device"] is not None:
            named = {**named, "device": torch.device("meta")}
        if named.get("generator") is not None:
            named = {**named, "generator": None}
        try:
            result = op(*[None if isinstance(each, torch.Generator) else each for each in moved], **named)
        except (NotImplementedError, RuntimeError) as error:
            if "Meta" not in str(error) and "meta" not in str(error):
                raise
            return self.unruled(op, plan, args, kwargs, error)
        for tensor in (t for place in plan.written for t in tensors_of(plan.pick(place, args, kwargs))):
            shaped = there.get(id(tensor))
            if shaped is not None and shaped.shape != tensor.shape:
                tensor.resize_(shaped.shape)
        several = isinstance(result, (tuple, list)) and len(plan.returns) != 1
        results = list(result) if several else [result]
        made = [
            self.fresh(each) if place is None else plan.pick(place, args, kwargs)
            for each, place in zip(results, plan.returns, strict=False)
        ]
        return tuple(made) if several else (made[0] if made else None)

    def unruled(self, op: Any, plan: _Plan, args: Sequence[Any], kwargs: dict[str, Any], error: Exception) -> Any:
        """An operator without a shape rule: from the values, zeros where they are unknown; else refused by its name."""
        there = [t for t in tensors_of((args, kwargs)) if t.device.type == DEVICE]
        outs = [t for place in plan.written for t in tensors_of(plan.pick(place, args, kwargs))] if plan.out else []
        mine = {id(t) for t in outs}
        unknown = {id(t) for t in there if id(t) not in mine and not self.device.known(base(t))}
        if (any(plan.returns) and not outs) or (unknown and sum(t.numel() for t in there) > HOSTED):
            raise NeedsDevice(
                f"{op.name()}: PyTorch has no shape rule for it, its operands are too large to try; register one with "
                f'torch.library.register_fake("{op.name()}")'
            ) from error
        self.device.note(WAIT_STREAM, 0)
        hosted: dict[int, Tensor] = {}

        def here(tensor: Tensor) -> Tensor:
            if tensor.device.type != DEVICE:
                return tensor
            blank = id(tensor) in unknown or id(tensor) in mine
            made = torch.zeros(tensor.shape, dtype=tensor.dtype) if blank else self.host(tensor)
            return hosted.setdefault(id(tensor), made)

        if unknown:
            values.tell(f"shapes of what {plan.base} makes (of zeros)")
        moved, named = mapped((args, kwargs), here)
        result = op(*moved, **named)
        if not outs:
            return self.fresh(result)
        for tensor in outs:
            if tensor.shape != hosted[id(tensor)].shape:
                tensor.resize_(hosted[id(tensor)].shape)
        picked = tuple(plan.pick(place, args, kwargs) for place in plan.returns if place is not None)
        return picked if len(picked) > 1 else picked[0]

    def fresh(self, shaped: Any) -> Any:
        """Empty tensors of the device like these shapes."""
        return mapped(shaped, lambda t: torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device=DEVICE))

    def settle(self, op: Any, plan: _Plan, args: Any, kwargs: Any, outputs: Any, written: Any, fresh: Any) -> None:
        """Compute on the host what is known and small; what is not is unknown from here on."""
        mine = {id(t) for t in written} if plan.out or plan.writer else set()
        read = [
            each for each in tensors_of((args, kwargs))
            if each.device.type == DEVICE and id(each) not in mine
        ]  # fmt: skip
        known = self.device.known
        able = (
            (self.recorder.real or plan.base not in DRAWN)
            and all(self.small(t) for t in (*written, *fresh))
            and all(known(base(t)) for t in read)
            and all(whole(t) or known(base(t)) for t in written)
        )
        if able and self.compute(op, args, kwargs, outputs, fresh):
            for tensor in (*written, *fresh):
                self.device.know(base(tensor), 1)
            return
        for tensor in written:
            if known(base(tensor)):
                self.device.know(base(tensor), 0)
        for tensor in (*fresh, *(written if plan.out else ())):
            values.choose(self, plan.base, args, tensor)

    def small(self, tensor: Tensor) -> bool:
        """Whether values of this size are kept."""
        if self.recorder.real:
            return True
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
            return tensor.numel() <= KNOWN_FLOATS
        return tensor.numel() * tensor.itemsize <= KNOWN_BYTES

    def compute(self, op: Any, args: Any, kwargs: Any, outputs: Any, fresh: Any) -> bool:
        """The host's kernel (or what composes it) on the same bytes; whether it has one."""
        seen: dict[int, Tensor] = {}

        def here(tensor: Tensor) -> Tensor:
            if tensor.device.type != DEVICE:
                return tensor
            return seen.setdefault(id(tensor), self.host(tensor))

        moved, named = mapped((args, kwargs), here)
        if "device" in named and named["device"] is not None:
            named = {**named, "device": torch.device("cpu")}
        if named.get("generator") is not None:
            named = {**named, "generator": None}
        given = [None if isinstance(each, torch.Generator) else each for each in moved]
        try:
            result = op(*given, **named)
        except NotImplementedError:
            composed = torch._decomp.decomposition_table.get(op)
            if composed is None:
                if self.recorder.real:
                    raise
                return False
            result = composed(*given, **named)
        new = {id(t) for t in fresh}
        for mine, theirs in zip(tensors_of(outputs), tensors_of(result), strict=True):
            if id(mine) in new:
                if mine.shape != theirs.shape:  # kernels of the host may keep other things for the backward pass
                    if not self.recorder.real:
                        return False
                    mine.resize_(theirs.shape)
                self.host(mine).copy_(theirs)
        return True

    def log(self, plan: _Plan, args: Any, kwargs: Any, written: Any, fresh: Any, given: Any, name: str) -> None:
        """A line for the kernel, unless nothing is moved."""
        read = [t for t in tensors_of((args, kwargs)) if t.device.type == DEVICE]
        if plan.out or plan.writer:
            mine = {id(t) for t in written}
            read = [t for t in read if id(t) not in mine]
        outs = [*written, *fresh]
        if not any(each.numel() for each in outs):
            return
        options = given or {}
        if plan.base.startswith(("_foreach", "_fused", "_amp_foreach")):
            options = {"tensors": len(written) or len(fresh)}
        elif plan.base in PRODUCTS and torch.backends.cuda.matmul.allow_tf32:
            options = {"tf32": True}
        elif any(each in plan.base for each in STATISTICS):
            options = {"statistics": next((each for each in args if isinstance(each, bool)), True)}
        self.recorder.launch(name or plan.base, read, outs, options)


NUMBERS = (bool, int, float, complex)
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
