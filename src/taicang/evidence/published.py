"""Rows of published serving results, in the words of the file, and their setups by rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from taicang import catalog
from taicang.catalog.models import model
from taicang.catalog.rules import section, settings
from taicang.cost.skew import SKEW
from taicang.errors import NotModelled
from taicang.evidence.served import quantisation
from taicang.evidence.systems import machine_for
from taicang.evidence.tables import CARRIED, held_out, lines, parsed, record
from taicang.models.types import Experts, Model, routed
from taicang.plans import Quantisation, ServePlan, chance_of
from taicang.search.door import Run, job_of
from taicang.serve.setup import Setup
from taicang.stacks import Stack

FILE = "published_serving.csv"

RULES = CARRIED / "rules" / "published.yaml"
"""The file of rules for these rows."""
SECONDS = {"ms": 1e-3, "s": 1.0}
RUN_S = 600.0
"""Least duration of an MLPerf run."""

_BALANCED = re.compile(r"balanced routing|perfect EPLB|random routing", re.IGNORECASE)
_ACCEPTED = re.compile(r"accept(?:ance)?(?: length)? (\d\.\d+)-(\d\.\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published result."""

    id: str
    source: str
    system: str
    chip: str
    count: int
    """Chips; 0 where the source does not say."""
    model: str
    dtype: str
    par: Mapping[str, Any]
    batch: Mapping[str, Any]
    seq: Mapping[str, Any]
    metric: str
    value: float
    unit: str
    grade: str
    role: str
    extra: Mapping[str, Any]
    notes: str

    @property
    def net(self) -> Model:
        """The model; raises as ``catalog.models.model``."""
        return model(self.model)

    @property
    def held_out(self) -> bool:
        """Kept from every fit: by the row's role, where the file leaves that open by the evidence split."""
        return held_out(self.id) if self.role == "either" else self.role != "calibration"

    @property
    def context(self) -> bool:
        """Told apart from the headline: ambiguous (grade C) or given for context."""
        return self.role == "context" or self.grade == "C"

    @property
    def machine(self) -> str:
        """Name of one machine of the catalogue; ``NotModelled`` for a chip that it lacks."""
        machines = section(RULES, "machines")
        if self.chip not in machines:
            raise NotModelled(f"no machine of the catalogue carries {self.chip}")
        return str(machines[self.chip])

    @property
    def of_source(self) -> Mapping[str, Any]:
        """What the rules say of the row's source: its suite and the stack of its epoch."""
        first = self.source.split("_")[0]
        facts = {"source": self.source, "first": first, "chip": self.chip, "vllm": "vllm" in self.system.lower()}
        return {"stack": first} | settings(RULES, "sources", facts)

    @property
    def suite(self) -> str:
        """Rows given for context have one of their own, so that no headline counts them."""
        return f"{self.of_source['suite']}_context" if self.context else str(self.of_source["suite"])

    @property
    def power_suite(self) -> str:
        """That of the row's average power."""
        return "published_mlenergy_power" if self.source.startswith("mlenergy") else "published_splitwise_power"

    @property
    def si_unit(self) -> str:
        """Of the figure as it is told: seconds or tokens per second."""
        return "s" if self.unit in SECONDS else "tokens/s"

    @property
    def stated(self) -> float:
        """The figure in that unit."""
        return self.value * SECONDS.get(self.unit, 1.0)

    @property
    def figure(self) -> str:
        """Which latency the row states, if one."""
        if self.unit not in SECONDS:
            return ""
        return "ttft" if self.metric in ("prompt_time", "ttft") else "tpot"

    @property
    def token_s(self) -> float | None:
        """The time of a decode step beside that of the prompt, where the row states it."""
        return float(self.extra["token_time_ms"]) * 1e-3 if "token_time_ms" in self.extra else None

    @property
    def power_w(self) -> float | None:
        """Average power of all chips, where the source states it, if only as a share of their limit."""
        if "avg_power_w_all_gpus" in self.extra:
            return float(self.extra["avg_power_w_all_gpus"])
        if "avg_power_x_tdp" in self.extra:
            return float(self.extra["avg_power_x_tdp"]) * (machine_for(self.machine, 1).chip.tdp_w or 0.0) * self.count
        return None

    @property
    def phase(self) -> str:
        """ "prefill", "decode" or another word of the source; "" where it says none."""
        return str(self.par.get("phase", ""))

    @property
    def balanced(self) -> bool:
        """Whether the source says that tokens were routed evenly over the experts."""
        return bool(_BALANCED.search(self.notes))

    @property
    def accepted(self) -> float | None:
        """Tokens that a sequence gains per step, where the source says how many drafts were accepted."""
        if "accepted" in self.extra:
            return float(self.extra["accepted"])
        found = _ACCEPTED.search(self.notes)
        return None if found is None else (float(found[1]) + float(found[2])) / 2

    @property
    def spread(self) -> float:
        """Deviation of the answers' lengths over their mean; 0 for synthetic loads of one length."""
        known = section(RULES, "data_sets").get(self.seq.get("dataset"))
        return float(known["spread"]) if known else 0.0

    def lengths(self) -> tuple[float, float]:
        """Mean prompt and answer in tokens; ``NotModelled`` where the source does not tell."""
        if (dataset := self.seq.get("dataset")) is not None:
            known = section(RULES, "data_sets").get(dataset)
            if known is None:
                raise NotModelled(f"no published mean lengths of the data set {dataset}")
            return known["prompt"], known["answer"]
        if (task := self.seq.get("task")) is not None:
            prompts = section(RULES, "tasks")
            if task not in prompts:
                raise NotModelled(f"no assumed prompt length of the task {task}")
            return prompts[task], float(self.seq["avg_osl"])
        if "kv_len" in self.seq:
            return float(self.seq["kv_len"]), 1.0
        if "isl" not in self.seq:
            raise NotModelled("the source gives no sequence lengths")
        return float(self.seq["isl"]), float(self.seq.get("osl", 1.0))


def read(path: Path) -> list[Published]:
    """Rows of the file."""
    return [_row(parsed(cells)) for cells in lines(path)]


def _row(cells: Mapping[str, Any]) -> Published:
    count, mappings = int(float(cells["count"] or 0)), {key: cells[key] for key in ("par", "batch", "seq", "extra")}
    return completed(record(Published, cells, source=cells["src"], count=count, **mappings))


def completed(row: Published) -> Published:
    """``row`` with what its source states beside the columns of the file."""
    facts = {"source": row.source, "model": row.model, "phase": row.phase, "mtp": str(row.par.get("mtp", ""))}
    said = settings(RULES, "readings", facts)
    told: dict[str, Any] = {column: {**getattr(row, column), **values} for column, values in said.items()}
    return replace(row, **told)


EPLB_EXPERTS = 32
"""Redundant experts that wide expert parallelism places by default (SGLang's and DeepSeek's published deployments)."""
WIDE = 32
"""Expert ranks from which a deployment counts as wide."""
DRAFT_ACCEPTANCE_RATIO = 0.85
"""Chance that DeepSeek's own draft token is accepted: 85 to 90 % for the second token (DeepSeek-V3 report)."""


def stack_of(row: Published) -> Stack:
    """The stack that a row ran on."""
    return catalog.stack(row.of_source["stack"])


def formats(row: Published, net: Model, stack: Stack) -> Quantisation:
    """Formats by the row's dtype: attention may be named apart ("FP8+BF16attn"), the cache too
    ("+FP8KV", or by its source)."""
    facts = {"dtype": row.dtype.lower(), "source": row.source, "model": row.model, "chip": row.chip}
    said = settings(RULES, "dtypes", facts)
    if "mode" not in said:
        raise NotModelled(f"number format {row.dtype}")
    return replace(quantisation(net, said.pop("mode"), stack, row.machine), **said)


def layout(row: Published, net: Model) -> ServePlan:
    """The plan that ``par`` states; ``NotModelled`` where it leaves the layout open."""
    par = row.par
    experts = routed(net)
    if experts and row.source.startswith("trtllm"):
        # its benchmark runs every expert model with attention data parallelism (performance overview, "MoE models")
        ranks = max(int(par.get(key, 1)) for key in ("tp", "dp_attn", "ep"))
        return ServePlan(dp=ranks, ep=ranks)
    tp, ep, dp = int(par.get("tp", 1)), int(par.get("ep", 1)), int(par.get("dp", 1))
    pp = int(par.get("pp", 1)) if str(par.get("pp", 1)).isdigit() else 1
    if row.phase in ("prefill", "decode", "prefill-only") and ep > 1:
        return ServePlan(dp=ep // tp, tp=tp, ep=ep, redundant=_redundant(row, experts, ep))
    if ep > 1 and "tp" in par:  # one group of ranks that shards attention by heads and experts whole
        ranks = max(tp, ep)
        return ServePlan(tp=ranks, ep=ep, moe_tp=ranks // ep)
    if not any(key in par for key in ("tp", "ep", "pp")):
        raise NotModelled("the source does not say how the model was laid out")
    return ServePlan(tp=tp, pp=pp, dp=dp, moe_tp=tp * dp)


def _redundant(row: Published, experts: Experts | None, ep: int) -> int:
    if experts is None:
        raise NotModelled(f"expert parallelism of {row.model}, which has no experts")
    wanted = int(row.par.get("redundant_experts", EPLB_EXPERTS if ep >= WIDE and not row.balanced else 0))
    return wanted + (-(experts.experts + wanted)) % ep


def drafted(row: Published, plan: ServePlan) -> ServePlan:
    """``plan`` with the row's multi-token prediction."""
    drafts = row.par.get("mtp", 0)
    if isinstance(drafts, str):
        raise NotModelled(f"multi-token prediction of unstated depth ({drafts})")
    if not drafts:
        return plan
    depth = int(drafts)
    chance = DRAFT_ACCEPTANCE_RATIO if row.accepted is None else chance_of((row.accepted - 1.0) / depth, depth)
    return replace(plan, draft_tokens=depth, acceptance_ratio=chance)


def make(row: Published, plan: ServePlan, net: Model, stack: Stack) -> Setup:
    """The setup of a row under ``plan``."""
    full = replace(plan, quant=formats(row, net, stack))
    run = Run(
        model=net, on=machine_for(row.machine, plan.ranks), stack=stack, plan=full,
        acceptance_ratio=plan.acceptance_ratio, skew=0.0 if row.balanced else SKEW,
    )  # fmt: skip
    return job_of(run).setup(full)


def setups(row: Published, given: Stack | None = None) -> list[Setup]:
    """Setups that answer for a row: one, or those with and without two-batch overlap where the source is silent."""
    net, stack = row.net, given or stack_of(row)
    plan = drafted(row, layout(row, net))
    wide = row.phase in ("prefill", "decode", "prefill-only") and plan.dp > 1
    if wide:
        # such deployments bring the best known kernels (DeepGEMM, FlashMLA, DeepEP), not the engine's own
        plan, stack = replace(plan, exchange="all_to_all"), replace(stack, kernel_ratio=MappingProxyType({}))
    overlap = row.par.get("tbo", row.par.get("dbo"))
    counts = (1, 2) if wide and overlap is None else (2,) if overlap else (1,)
    return [make(row, replace(plan, microbatches=count), net, stack) for count in counts]
