"""Steps and collectives as execution traces that other simulators read: one graph that stands for all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Literal, TypeAlias

import numpy as np

from taicang.catalog.costing import training_price
from taicang.cost.cost import Cost
from taicang.cost.exchange import domain_levels
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
from taicang.train.chunks import Layers, held_by, priced
from taicang.train.layer import launch_s
from taicang.train.schedule import BACKWARD, DATA, FORWARD, PAIR, WEIGHT
from taicang.train.setup import Setup
from taicang.train.stages import Share, shares
from taicang.train.step import pipeline_run
from taicang.train_plans import TrainPlan, stride
from taicang.train_plans.placement import seed_of
from taicang.train_plans.plan import ORDER

MOST_TASKS = 1_000_000
Moved: TypeAlias = tuple[Kind | None, float, int, int]


class Graph:
    """Tasks one after the other, or beside what runs; groups by their size and stride."""

    def __init__(self, name: str, machine: Machine) -> None:
        self.name, self.machine = name, machine
        self.tasks: list[Task] = []
        self.groups: dict[str, tuple[int, ...]] = {}
        self.last: tuple[int, ...] = ()

    def add(self, label: str, op: Operator, cost: Cost, after: Sequence[int] | None = None) -> int:
        """One operator, behind the last one unless ``after`` says what it waits for."""
        for moved in _fanned(op, cost, self.machine) or [exchanged(op, cost)]:
            number = self._task(label, op, cost, moved, tuple(self.last if after is None else after))
            if after is None:
                self.last = (number,)
        return number

    def _task(self, label: str, op: Operator, cost: Cost, moved: Moved, waits: tuple[int, ...]) -> int:
        number = len(self.tasks)
        if number >= MOST_TASKS:
            raise NotModelled(f"a trace of more than {MOST_TASKS:,} tasks: fewer layers or microbatches")
        kind, size, ranks, stride = moved
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
        return number

    def idle(self, label: str, seconds: float) -> None:
        """Time in which the device waits."""
        if seconds > 0.0:
            self.tasks.append(Task(id=len(self.tasks), name=label, kind="compute", after=self.last, seconds=seconds))
            self.last = (len(self.tasks) - 1,)

    def message(self, kind: Literal["send", "receive"], peer: int, tag: int, size_bytes: float) -> None:
        """A message to or from the stage ``peer``: what comes next waits for one that is received."""
        made = Task(id=len(self.tasks), name=kind, kind=kind, after=self.last, peer=peer, tag=tag,
                    payload_bytes=size_bytes)  # fmt: skip
        self.tasks.append(made)
        if kind == "receive":
            self.last = (made.id,)

    def workload(self) -> Workload:
        """What has been added."""
        return Workload(name=self.name, ranks={0: tuple(self.tasks)}, groups=self.groups)


def _fanned(op: Operator, cost: Cost, machine: Machine) -> list[Moved]:
    """An exchange whose copies cross to a node once: to the ranks of the same place in other nodes, then on inside."""
    levels = machine.plane("scale_up").levels
    within = domain_levels(levels)
    if not isinstance(op, Exchange) or within == len(levels):
        return []
    ranks, apart = round(float(op.ranks)), round(float(op.stride))
    near = max(min(levels[within - 1].ranks // apart, ranks), 1)
    inside, beyond = (float(sum(cost.level_bytes[part])) for part in (slice(within), slice(within, None)))
    # where each receiver gets its own copy, they cross as an even exchange has them cross
    if near < 2 or ranks % near or beyond <= 0.0 or beyond > 0.99 * (inside + beyond) * (ranks - near) / (ranks - 1):
        return []
    nodes = ranks // near
    return [("all_to_all", beyond * nodes / (nodes - 1), nodes, apart * near),
            ("all_to_all", inside * near / (near - 1), near, apart)]  # fmt: skip


def exchanged(op: Operator, cost: Cost) -> Moved:
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
    graph = Graph(kind, on)
    graph.add(kind, op, costs(on, ask).price(op))
    return graph.workload()


def serving_graph(phase: PhasePrediction, machine: Machine, name: str) -> Workload:
    """A decode or prefill step, operator by operator, layer by layer; what hides behind what is not in it."""
    graph = Graph(name, machine)
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
    """A training step: all microbatches forward and backward, with what runs beside them.

    One graph stands for all ranks, which do the same, unless there are pipeline stages or ranks at random places: then
    there is one of each rank, with the messages between stages. Raises ``NotModelled`` for too many tasks.
    """
    plan, seed = setup.plan, seed_of(setup.plan.order)
    if seed is not None:
        setup = replace(setup, plan=replace(plan, order=ORDER))
    stages = _Training(setup, name).stages()
    return stages[0].workload() if plan.pp == 1 and seed is None else _everywhere(stages, setup.plan, setup, seed, name)


def _everywhere(stages: Sequence[Graph], plan: TrainPlan, setup: Setup, seed: int | None, name: str) -> Workload:
    """The graph of its stage for each rank, with the groups and neighbours of the rank's own."""
    apart, ranks = round(float(stride(plan, "pp"))), setup.machine.ranks if seed is not None else plan.ranks
    whole = sum(len(stage.tasks) for stage in stages) * (plan.ranks // plan.pp)
    if whole > MOST_TASKS:
        raise NotModelled(f"a trace of {whole:,} tasks, up to {MOST_TASKS:,} are written: fewer microbatches, or ranks")
    places = list(range(ranks)) if seed is None else np.random.default_rng(seed).permutation(ranks).tolist()
    groups: dict[str, tuple[int, ...]] = {}
    graphs: dict[int, tuple[Task, ...]] = dict.fromkeys(range(ranks), ())
    for rank in range(plan.ranks):
        at = rank // apart % plan.pp

        def own(group: str, rank: int = rank, at: int = at) -> str:
            count, gap = map(int, group.split("x"))
            if plan.copies > 1 and (count, gap) == (2, apart):  # DualPipe holds a stage's copy at the other end
                members = sorted({rank, rank + (plan.pp - 1 - 2 * at) * apart})
            else:
                first = rank - rank // gap % count * gap
                members = list(range(first, first + count * gap, gap))
            groups.setdefault(made := f"{group}@{members[0]}", tuple(places[member] for member in members))
            return made

        named = {group: own(group) for group in stages[at].groups}
        graphs[places[rank]] = tuple(
            replace(task, group=named[task.group]) if task.group
            else replace(task, peer=places[rank + (task.peer - at) * apart]) if task.peer >= 0 else task
            for task in stages[at].tasks
        )  # fmt: skip
    return Workload(name=name, ranks=graphs, groups=groups)


class _Training:
    def __init__(self, setup: Setup, name: str) -> None:
        self.setup, self.graph = setup, Graph(name, setup.machine)
        price = training_price(setup.machine, setup.stack)
        self.price: Callable[[Operator], Cost] = lambda op: price(op, 1.0, 1.0)
        model = setup.model
        self.kinds = {block: lower_layer(model, block, setup.plan, setup.stack) for block in model.blocks}
        self.embedding, self.head = lower_edges(model, setup.plan, setup.stack)
        self.last: list[int] = []
        self.started = 0
        first, self.chunks = 0, list[tuple[int, list[Block], Share]]()
        for share in shares(model, setup.plan):
            blocks = [*share.blocks, *[model.blocks[-1]] * (model.mtp_layers * share.mtp)]
            self.chunks.append((first, blocks, share))
            first += len(blocks)
        self.layers = first

    def stages(self) -> list[Graph]:
        """The graph of each pipeline rank: its work in the schedule's order, and what follows the last of it."""
        setup, plan = self.setup, self.setup.plan
        run = pipeline_run(setup, most=plan.microbatches)
        made, whole = run.graph, len(self.chunks)
        graphs = [Graph(self.graph.name, setup.machine) for _ in range(plan.pp)]
        lasts: list[list[int]] = [[] for _ in graphs]
        takers: dict[int, list[tuple[int, int]]] = {}
        inputs = ((made.needs, made.crosses), (made.returns, made.returns_crosses))
        for which, (sources, crosses) in enumerate(inputs):
            for node in np.flatnonzero(crosses).tolist():
                takers.setdefault(int(sources[node]), []).append((int(made.rank[node]), 2 * node + which))
        sent = plan.micro_batch * plan.seq / plan.cp * setup.model.hidden * 2.0 / plan.tp
        for node, rank in enumerate(made.rank.tolist()):
            self.graph, self.last = graphs[rank], lasts[rank]
            for which, (sources, crosses) in enumerate(inputs):
                if crosses[node]:
                    self.graph.message("receive", int(made.rank[sources[node]]), 2 * node + which, sent)
            kind = int(made.kind[node])
            self._pass(FORWARD if kind == PAIR else kind, self.chunks[made.chunk[node] % whole])
            if kind == PAIR:
                self._pass(BACKWARD, self.chunks[made.beside[node] % whole])
            for taker, tag in takers.get(node, ()):
                self.graph.message("send", taker, tag, sent)
        held = priced(setup, Layers(setup))
        for rank, graph in enumerate(graphs):
            mine = held_by(held, rank, plan.pp, folded=setup.shape.folded)
            self._after(graph, lasts[rank], memory.together((chunk.held, 1.0) for chunk in mine))
        return graphs

    def _after(self, graph: Graph, last: Sequence[int], held: memory.Held) -> None:
        """Gradients, parameters, and the optimizer."""
        plan, keeps = self.setup.plan, self.setup.stack.keeps
        graph.last = tuple(dict.fromkeys((*graph.last, *last)))
        if not plan.by_layer:
            for op in self._recorded(lambda price: sync.step_network(held, plan, price, keeps)):
                graph.add("gradients and parameters", op, self.price(op))
        for op in self._recorded(lambda price: sync.optimizer_s(held, plan, price)):
            graph.add("optimizer", op, self.price(op))

    def _pass(self, kind: int, chunk: tuple[int, list[Block], Share]) -> None:
        """One pass of a chunk: its layers with embedding and head where they sit."""
        first, blocks, share = chunk
        heads = share.head + share.mtp * self.setup.model.mtp_layers
        if kind == FORWARD:
            if share.embedding:
                self._gathered(None, 0)
                self._run(self.embedding.forward)
            for block in blocks:
                self._gathered(block, 0)
                self._run(self.kinds[block].forward)
            for _ in range(heads):
                self._run(self.head.forward)
            return
        for _ in range(heads):
            self._back(self.head, kind)
        for at in reversed(range(len(blocks))):
            layer = self.kinds[blocks[at]]
            if kind != WEIGHT:
                self._gathered(blocks[at], 1)
                self._again(layer, first + at)
            self._back(layer, kind)
            self.graph.idle("launch gaps", 0.0 if kind == WEIGHT else self.setup.stack.layer_gap_s)
            self.last += self._scattered(blocks[at])
        if share.embedding:  # neither edge is gathered again
            self._back(self.embedding, kind)
            self.last += self._scattered(None)

    def _run(self, steps: Iterable[Step], backward: str = "") -> None:
        """One pass; what tensor parallelism moves beside the next product holds up what comes after that."""
        graph, stack, beside = self.graph, self.setup.stack, list[int]()
        behind_s = 0.0  # the host runs ahead, or the device waits for it
        for step in steps:
            hidden = step.axis == "tp" and self._hides(step, backward)
            host_s = float(launch_s(step, self.setup.plan, stack)) if step.axis == "compute" else 0.0
            behind_s += host_s - (0.0 if hidden else float(self.price(step.op).seconds)) * float(step.repeat)
            for _ in range(max(round(float(step.repeat)), 1)):
                number = graph.add(step.label, step.op, self.price(step.op), graph.last if hidden else None)
                beside += [number] if hidden else []
            if step.axis == "compute" and not hidden:
                graph.last = (*graph.last, *beside)
                beside = []
        graph.last = (*graph.last, *beside)
        graph.idle("launch gaps", behind_s)

    def _back(self, layer: Layer, kind: int) -> None:
        if kind != WEIGHT:
            self._run(layer.data, "data")
        if kind != DATA:
            self._run(layer.weight, "weight")

    def _hides(self, step: Step, backward: str) -> bool:
        if "tensor" in self.setup.stack.overlap or backward == "weight":
            return True
        scatter = isinstance(step.op, Collective) and step.op.kind == "reduce_scatter"
        return backward == "data" and (scatter or not self.setup.plan.sp)

    def _again(self, layer: Layer, at: int) -> None:
        """What recompute repeats of the forward pass, in the first layers where it is a share of them."""
        plan = self.setup.plan
        if plan.recompute == "full" and at < plan.recompute_ratio * self.layers:
            self._run(layer.again)
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

    def _sharded(self, block: Block | None) -> list[Operator]:
        """Collectives of a layer, or of embedding and head together."""
        plan, model = self.setup.plan, self.setup.model
        edges = memory.Held(dense=sum(memory.edge_parameters(model, plan)))
        held = edges if block is None else memory.layer_parameters(model, block, plan)
        return self._recorded(lambda price: sync.layer_network(held, plan, price))

    def _gathered(self, block: Block | None, backward: int) -> None:
        """Weights of a layer, fetched beside the layer before it."""
        if not self.setup.plan.by_layer or (backward and not self.setup.plan.reshard):
            return
        before, self.started = self.started, len(self.graph.tasks)
        waits = (before,) if before else ()
        for op in self._sharded(block):
            if isinstance(op, Collective) and op.kind == "all_gather":
                waits = (self.graph.add("weights", op, self.price(op), waits),)
        self.graph.last = tuple(dict.fromkeys((*self.graph.last, *waits)))

    def _scattered(self, block: Block | None) -> list[int]:
        """Gradients of a layer, on their way beside the next one's backward pass."""
        waits, found = self.graph.last, list[int]()
        if not self.setup.plan.by_layer:
            return found
        for op in self._sharded(block):
            if isinstance(op, Collective) and op.kind != "all_gather":
                waits = (self.graph.add("gradients", op, self.price(op), waits),)
                found = list(waits)
        return found
