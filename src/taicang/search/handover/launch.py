"""What a hand-over works on: one pool placed on nodes in equal shares, and what the nodes of an instance run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from taicang.errors import NotModelled
from taicang.hardware import Machine
from taicang.models.types import Model
from taicang.plans import ServePlan
from taicang.search.result import Pool
from taicang.serve.memory import engine_share
from taicang.stacks import GraphMode, Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """``nodes`` nodes give ``devices`` devices each (a device is a rank: a GPU, or one die of an Ascend package)."""

    nodes: int
    devices: int


def place(plan: ServePlan, machine: Machine) -> Placement:
    """The fewest nodes that hold the instance in equal shares. Raises ``NotModelled`` where there is no such split.

    With attention data parallelism a node holds whole groups (their ranks in all stages), or a group fills whole nodes.
    """
    room = machine.chips_per_node * machine.chip.dies
    ranks, group = plan.ranks, plan.tp * plan.pp
    for nodes in range(-(-ranks // room), ranks + 1):
        if ranks % nodes == 0:
            share = ranks // nodes
            if plan.dp == 1 or share % group == 0 or (group > room and group % share == 0):
                return Placement(nodes=nodes, devices=share)
    raise NotModelled(f"{ranks} ranks in groups of {group} have no equal split on nodes of {room} devices")


PORT = 8000
RENDEZVOUS = 20000
LEADER, NODE = "$LEADER", "$NODE_RANK"
"""Shell variables that a launcher sets: address of an instance's first node, index of this one."""
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One pool of a choice, where an instance of it lies, and what it serves."""

    name: str
    """Of the pool among all Kubernetes objects."""
    pool: Pool
    where: Placement
    net: Model
    machine: Machine
    path: str
    """Where the engine finds the weights."""
    input_tokens: int
    output_tokens: int
    port: int = PORT
    feeds_drafts: int = 0
    """Tokens that the instances draft that a prefill pool feeds."""
    priced: Stack | None = None
    """The engine that was priced; None: the plan was priced for another."""

    @property
    def memory_ratio(self) -> float | None:
        """Share of device memory that the plan was priced with, as the engine counts it."""
        if self.priced is None:
            return None
        share = engine_share(self.priced.memory, self.plan, self.machine.chip.memory.capacity_bytes, self.budget_tokens)
        return math.floor(float(share) * 1000.0) / 1000.0

    @property
    def graph(self) -> GraphMode:
        """What of a decode step it is priced to capture ("": what it does by itself)."""
        return self.priced.graph if self.priced else ""

    @property
    def plan(self) -> ServePlan:
        """Layout of one instance."""
        return self.pool.plan

    @property
    def stage(self) -> int:
        """Ranks of one pipeline stage."""
        return self.plan.tp * self.plan.dp

    @property
    def drafts(self) -> int:
        """Tokens drafted per step."""
        return int(self.plan.draft_tokens)

    @property
    def sequences(self) -> int:
        """In flight in one attention group, at most."""
        return max(int(self.pool.sequences), 1)

    @property
    def budget_tokens(self) -> int:
        """Tokens that one attention group works on in a step at most: its chunk, or all prompts of a prefill batch."""
        if self.pool.chunk_tokens:
            return self.pool.chunk_tokens
        return self.sequences * (self.input_tokens if self.pool.role == "prefill" else 1 + self.drafts)

    @property
    def longest_tokens(self) -> int:
        """Prompt and answer of one request, with the drafts of its last step."""
        return self.input_tokens + self.output_tokens + self.drafts

    @property
    def groups_per_node(self) -> int:
        """Whole attention groups on a node; 0 where a group spans nodes."""
        return self.where.devices // (self.plan.tp * self.plan.pp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What every node of an instance runs; ``follower`` replaces the command on nodes after the first, if it differs.

    ``files`` are configuration files that the command names, ``notes`` what the reader has to know.
    """

    command: tuple[str, ...]
    follower: tuple[str, ...] | None = None
    files: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    env: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    notes: tuple[str, ...] = ()
    mpi: bool = False
    """One process per rank, which MPI starts from the first node."""


Writer: TypeAlias = Callable[[Placed], Launch]
"""From a placed pool to what its nodes run; raises ``NotModelled`` for a plan that the engine cannot express."""


def role_name(role: str) -> str:
    """Name of a pool's files."""
    return {"both": "serve"}.get(role, role)


def refuse(engine: str, reasons: Sequence[str]) -> None:
    """Raise ``NotModelled`` with the first reason that holds (empty ones do not)."""
    for reason in reasons:
        if reason:
            raise NotModelled(f"{engine} cannot express this plan: {reason}")


def unknown_to_all(plan: ServePlan) -> str:
    """Features of a plan that no public engine's arguments name."""
    if plan.sp:
        return "sequence-tensor-sequence attention"
    if plan.shared_ranks:
        return "ranks that hold only the shared expert"
    return ""


def uncaptured(placed: Placed, *known: str) -> str:
    """How its decode steps are to be captured, where an engine's arguments name only ``known`` ways and its own."""
    return "" if placed.graph in ("", "full", *known) else f"decode steps that are captured {placed.graph!r}"


def all_to_all(plan: ServePlan) -> bool:
    """Whether the engine has to exchange tokens with experts by all-to-all: asked for, or needed to overlap batches."""
    return plan.dp > 1 and (plan.exchange == "all_to_all" or (plan.microbatches > 1 and plan.exchange == "auto"))


def staged_drafts(placed: Placed) -> str:
    """Why nothing is drafted over this plan's stages, if something should be."""
    return "drafted tokens over pipeline stages" if placed.drafts and placed.plan.pp > 1 else ""


def overlap_without(plan: ServePlan) -> str:
    """Why two batches cannot overlap under this plan's exchange, if they cannot."""
    asked = plan.microbatches > 1 and not all_to_all(plan)
    return "two microbatches that overlap without an all-to-all exchange" if asked else ""


def shell(launch: Launch) -> str:
    """Shell lines that one node runs, with ``LEADER`` and ``NODE_RANK`` set."""
    lines = [f"export {key}={value}" for key, value in launch.env.items()]
    first = f"exec {quoted(launch.command)}"
    if launch.follower is None:
        return "\n".join([*lines, first])
    return "\n".join([*lines, f'if [ "{NODE}" = 0 ]; then {first}; fi', f"exec {quoted(launch.follower)}"])


def quoted(command: Sequence[str]) -> str:
    """A shell line; the variables of the launcher stay open."""
    return " ".join(word if LEADER in word or NODE in word else shlex.quote(word) for word in command)
