"""Steps and collectives as execution traces that other simulators read: one graph that stands for all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from taicang.catalog.costing import training_price
from taicang.cost.cost import Cost
from taicang.errors import NotModelled
from taicang.fabric.topology import Fabric
from taicang.hardware import Machine
from taicang.interop.work import Collective as Kind
from taicang.interop.work import Task, Workload
from taicang.lower.training import Layer, Step, lower_layer
from taicang.lower.training_edges import lower_edges
from taicang.models.types import Block
from taicang.ops import Collective, Exchange, Operator, Transfer
from taicang.predict.prediction import PhasePrediction
from taicang.search.collective import Ask, costs, operator
from taicang.timeline import Slice
from taicang.train import memory, sync
from taicang.train.setup import Setup
from taicang.train_plans.placement import seed_of

MOST_TASKS = 1_000_000


class Graph:
    """Tasks one after the other, or beside what runs; groups by their size and stride."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tasks: list[Task] = []
        self.groups: dict[str, tuple[int, ...]] = {}
        self.last: tuple[int, ...] = ()

    def add(self, label: str, op: Operator, cost: Cost, after: Sequence[int] | None = None) -> int:
        """One operator, behind the last one unless ``after`` says what it waits for."""
        number = len(self.tasks)
        if number >= MOST_TASKS:
            raise NotModelled(f"a trace of more than {MOST_TASKS:,} tasks: fewer layers or microbatches")
        kind, size, ranks, stride = exchanged(op, cost)
        waits = tuple(self.last if after is None else after)
        if kind is None or ranks < 2:
            if isinstance(op, Transfer):  # its other end is in no graph
                label = f"{label} (priced)"
            made = Task(id=number, name=label, kind="compute", after=waits, seconds=float(cost.seconds),
                        flop=float(cost.flop), moved_bytes=float(cost.moved_bytes))  # fmt: skip
        else:
            group = f"{ranks}x{stride}"
            self.groups.setdefault(group, tuple(range(0, ranks * stride, stride)))
            made = Task(id=number, name=label, kind="collective", after=waits, collective=kind, payload_bytes=size,
                        group=group)  # fmt: skip
        self.tasks.append(made)
        if after is None:
            self.last = (number,)
        return number

    def workload(self) -> Workload:
        """What has been added."""
        return Workload(name=self.name, ranks={0: tuple(self.tasks)}, groups=self.groups)


def exchanged(op: Operator, cost: Cost) -> tuple[Kind | None, float, int, int]:
    """Kind, payload (as ``Task`` counts it), ranks and stride of what crosses the network."""
    if isinstance(op, Exchange):
        ranks = round(float(op.ranks))
        whole = float(cost.sent_bytes) * ranks / max(ranks - 1, 1)
        return "all_to_all", whole, ranks, round(float(op.stride))
    if isinstance(op, Collective):
        ranks = round(float(op.ranks))
        payload = float(op.payload_bytes) / (ranks if op.kind == "all_gather" else 1)
        return op.kind, payload, ranks, round(float(op.stride))
    return None, 0.0, 1, 1


def collective_graph(on: Machine | Fabric, ask: Ask) -> Workload:
    """The collective of ``ask``. Raises ``NotModelled`` without one, for a send, and on a graph of a user's."""
    kind = ask.kind.replace("-", "_")
    if isinstance(on, Fabric) or kind in ("", "send"):
        raise NotModelled("a Chakra trace of something else than a --collective on a machine of the catalogue")
    op = operator(ask, ask.ranks or on.ranks // ask.stride)
    graph = Graph(kind)
    graph.add(kind, op, costs(on, ask).price(op))
    return graph.workload()


def serving_graph(phase: PhasePrediction, name: str) -> Workload:
    """A decode or prefill step, operator by operator, layer by layer; what hides behind what is not in it."""
    graph = Graph(name)
    for _, group in groupby(phase.step.slices, key=lambda piece: (piece.block, piece.part == "draft")):
        for piece, runs in _layered(list(group)):
            assert piece.op is not None
            for _ in range(runs):
                graph.add(piece.label, piece.op, piece.cost)
    return graph.workload()


def _layered(pieces: Sequence[Slice]) -> Iterator[tuple[Slice, int]]:
    """Slices of a block in the order they run: all of one layer, then all of the next."""
    counted = [(piece, float(piece.repeat)) for piece in pieces if piece.op is not None and float(piece.repeat) > 0.5]
    layers = max(round(min((runs for _, runs in counted), default=0.0)), 1)
    for _ in range(layers if counted else 0):
        for piece, runs in counted:
            yield piece, max(round(runs / layers), 1)


def training_graph(setup: Setup, name: str) -> Workload:
    """A training step without a pipeline: all microbatches forward and backward, with what runs beside them.

    Raises ``NotModelled`` for pipelines and random places.
    """
    plan = setup.plan
    if plan.pp > 1 or seed_of(plan.order) is not None:
        raise NotModelled("a Chakra trace of a pipeline or of random places: give a plan with --pp 1 in an order")
    return _Training(setup, name).step()


class _Training:
    def __init__(self, setup: Setup, name: str) -> None:
        self.setup, self.graph = setup, Graph(name)
        price = training_price(setup.machine, setup.stack)
        self.price: Callable[[Operator], Cost] = lambda op: price(op, 1.0, 1.0)
        kinds = {block: lower_layer(setup.model, block, setup.plan, setup.stack) for block in setup.model.blocks}
        self.layers = [(block, kinds[block]) for block in setup.model.blocks for _ in range(block.count)]
        self.started = 0

    def step(self) -> Workload:
        """All of it."""
        model, plan = self.setup.model, self.setup.plan
        embedding, head = lower_edges(model, plan, self.setup.stack)
        last = []
        for _ in range(plan.microbatches):
            self._run(embedding.forward)
            for block, layer in self.layers:
                self._gathered(block, 0)
                self._run(layer.forward)
            self._run(head.forward)
            self._back(head)
            for at, (block, layer) in reversed(list(enumerate(self.layers))):
                self._gathered(block, 1)
                self._again(layer, at)
                self._back(layer)
                last += self._scattered(block)
            self._back(embedding)
        held = [memory.layer_parameters(model, block, plan) for block, _ in self.layers]
        edges = memory.edge_parameters(model, plan)
        whole = memory.Held(dense=sum(each.dense for each in held) + sum(edges), experts=sum(h.experts for h in held))
        graph = self.graph
        graph.last = (*graph.last, *last)
        if not plan.by_layer:
            for op in self._recorded(lambda price: sync.step_network(whole, plan, price, self.setup.stack.keeps)):
                graph.add("gradients and parameters", op, self.price(op))
        for op in self._recorded(lambda price: sync.optimizer_s(whole, plan, price)):
            graph.add("optimizer", op, self.price(op))
        return graph.workload()

    def _run(self, steps: Iterable[Step], backward: str = "") -> None:
        """One pass; what tensor parallelism moves beside the next product holds up what comes after that."""
        graph, beside = self.graph, list[int]()
        for step in steps:
            hidden = step.axis == "tp" and self._hides(step, backward)
            for _ in range(max(round(float(step.repeat)), 1)):
                number = graph.add(step.label, step.op, self.price(step.op), graph.last if hidden else None)
                beside += [number] if hidden else []
            if step.axis == "compute" and not hidden:
                graph.last = (*graph.last, *beside)
                beside = []
        graph.last = (*graph.last, *beside)

    def _back(self, layer: Layer) -> None:
        self._run(layer.data, "data")
        self._run(layer.weight, "weight")

    def _hides(self, step: Step, backward: str) -> bool:
        if "tensor" in self.setup.stack.overlap or backward == "weight":
            return True
        scatter = isinstance(step.op, Collective) and step.op.kind == "reduce_scatter"
        return backward == "data" and (scatter or not self.setup.plan.sp)

    def _again(self, layer: Layer, at: int) -> None:
        """What recompute repeats of the forward pass, in the first layers where it is a share of them."""
        plan = self.setup.plan
        if plan.recompute == "full" and at < plan.recompute_ratio * len(self.layers):
            self._run(layer.forward)
        elif plan.recompute == "selective":
            self._run(step for step in layer.forward if step.module in plan.recompute_modules)

    def _recorded(self, runs: Callable[[Callable[[Operator], Cost]], object]) -> list[Operator]:
        """The operators that a formula prices, in its order."""
        seen: list[Operator] = []

        def price(op: Operator) -> Cost:
            seen.append(op)
            return self.price(op)

        runs(price)
        return seen

    def _sharded(self, block: Block) -> list[Operator]:
        plan = self.setup.plan
        held = memory.layer_parameters(self.setup.model, block, plan)
        return self._recorded(lambda price: sync.layer_network(held, plan, price)) if plan.by_layer else []

    def _gathered(self, block: Block, backward: int) -> None:
        """Weights of a layer, fetched beside the layer before it."""
        if backward and not self.setup.plan.reshard:
            return
        before, self.started = self.started, len(self.graph.tasks)
        waits = (before,) if before else ()
        for op in self._sharded(block):
            if isinstance(op, Collective) and op.kind == "all_gather":
                waits = (self.graph.add("weights", op, self.price(op), waits),)
        self.graph.last = tuple(dict.fromkeys((*self.graph.last, *waits)))

    def _scattered(self, block: Block) -> list[int]:
        """Gradients of a layer, on their way beside the next one's backward pass."""
        waits, found = self.graph.last, []
        for op in self._sharded(block):
            if isinstance(op, Collective) and op.kind != "all_gather":
                waits = (self.graph.add("gradients", op, self.price(op), waits),)
                found = list(waits)
        return found
