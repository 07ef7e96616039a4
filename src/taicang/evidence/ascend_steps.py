"""Forward steps on Ascend dies with a reference time: what runs, how it is laid out, and on which machine.

``queries`` is the total over all ranks. A decode step verifies ``query_len`` tokens per sequence and then drafts the
next ones; that the reference times hold those drafts' own forward passes follows from their consistency (with them the
calibrated-on decode steps agree with each other, without them they do not).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from taicang import catalog
from taicang.catalog.grounds import Ground, ground
from taicang.catalog.models import model
from taicang.catalog.rules import section
from taicang.errors import NotModelled
from taicang.evidence.tables import CARRIED, held_out, lines, record, worded
from taicang.hardware import Machine
from taicang.models.types import Model, routed
from taicang.plans import Batch, Quantisation, ServePlan, decode_batch, prefill_batch
from taicang.search.door import Run, job_of
from taicang.serve.setup import Setup, step
from taicang.stacks import Stack

TABLE = CARRIED / "ascend_steps.csv"
STACK = "vllm-ascend"
RULES = CARRIED / "rules" / "ascend.yaml"
"""The file of rules for rows of Ascend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One reference step."""

    id: str
    device: str
    net: str
    phase: str
    queries: int
    query_len: int
    context: int
    linear: str
    attention: str
    drafts: int
    ranks: int
    tp: int
    dp: int
    ep: int
    image: str
    measured_s: float

    @property
    def held(self) -> bool:
        """Whether the row is kept from every fit."""
        return held_out("step_time", self.id)

    @property
    def generation(self) -> str:
        """Of its chip: "A2", "A3"."""
        return self.device.split("_")[2]

    @property
    def figure(self) -> str:
        """Which latency a step is."""
        return "tpot" if self.phase == "decode" else "ttft"


@cache
def rows() -> tuple[Row, ...]:
    """All rows of the carried table."""
    return tuple(
        record(Row, cells, net=cells["model"], measured_s=float(cells["measured_ms"]) * 1e-3) for cells in lines(TABLE)
    )


def row_of(each: Mapping[str, Any]) -> Row:
    """A step of a list in YAML."""
    config = each["config"]
    if int(config.get("pp_size", 1)) > 1:
        raise NotModelled("pipeline stages in reference steps")
    said = worded(config, section(RULES, "steps"), section(RULES, "usual_steps"))
    ranks, tp = int(said["ranks"]), int(said["tp"])
    return record(
        Row, said | {"id": each.get("id", ""), "dp": said["dp"] or ranks // tp},
        phase="decode" if config["decode"] else "prefill",
        image=f"{config['image_width']}x{config['image_height']}" if "image_height" in config else "",
        measured_s=float(each.get("step_time_ms_reference") or "nan") * 1e-3,
    )  # fmt: skip


@cache
def machine_of(device: str, ranks: int) -> Machine:
    """The node of a device name ("ATLAS_800_A3_560T_128G_DIE"), or the supernode of its chips where ranks exceed it."""
    generation, chip = device.split("_")[2:4]
    node = catalog.machine(f"{section(RULES, 'nodes')[generation]}-{chip.lower()}")
    if ranks <= node.ranks:
        return node
    return replace(catalog.machine("cloudmatrix384"), chip=node.chip)


def plan_of(row: Row, net: Model) -> ServePlan:
    """The row's layout; weights of four bits are the experts', the projections then have eight."""
    linear = section(RULES, "linear")[row.linear]
    dense = "int8" if linear == "w4a8" else linear
    quant = Quantisation(
        attention=dense,
        dense=dense,
        experts=linear,
        kv="int8" if row.attention == "INT8" else "bf16",
        attend="int8" if row.attention == "INT8" else "bf16",
        dispatch="bf16" if linear == "bf16" else "int8",
    )
    ep = row.ep if routed(net) else 1
    return ServePlan(tp=row.tp, dp=row.dp, ep=ep, moe_tp=row.ranks // ep, draft_tokens=row.drafts, quant=quant)


def batch_of(row: Row) -> Batch:
    """What one attention group works on."""
    mine = row.queries / row.dp
    if row.phase == "decode":
        return decode_batch(sequences=mine, context=float(row.context))
    return prefill_batch(sequences=mine, length=float(row.query_len), cached=row.context)


def setup_of(row: Row, stack: Stack | None = None) -> Setup:
    """The setup of a row."""
    net = model(row.net)
    run = Run(model=net, on=machine_of(row.device, row.ranks), stack=stack or STACK, skew=0.0)
    return job_of(run).setup(plan_of(row, net))


def run_of(row: Row) -> Ground:
    """What is known of a row: a step of the device, of which nobody says how the host paced it."""
    made = setup_of(row)
    stack = replace(made.stack, graph="")
    return ground(
        made.model, made.machine, stack, use="aggregated", ranks=row.ranks, quant=made.plan.quant, plan=made.plan
    )


def predict_s(row: Row, stack: Stack | None = None) -> float:
    """Seconds of the row's step; refuses rows with an image, whose encoder is not modelled."""
    if row.image:
        raise NotModelled(f"the encoder of an image of {row.image} pixels")
    return float(step(setup_of(row, stack), batch_of(row)).seconds)
