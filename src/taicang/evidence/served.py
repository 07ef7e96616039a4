"""Rows of served end-to-end measurements as setups and loads.

One row is one served model under a closed loop of clients. Conventions of the sources that are undone here:

* Rows of the public source state dp (or tp, without attention data parallelism) = tp x ep of their launcher, so the
  number of GPUs is the larger of the expert degrees. What they meant is told by scripts (``layouts`` in the rules).
* Rows that describe several replicas state the batch of one.
* The public source files DeepSeek under two names: DeepSeek-V3 for plain decoding, DeepSeek-R1 for runs with the
  model's own draft layer. Its lengths are drawn between 80 % and 100 % of the stated ones.
* The other source's rows of Qwen3.5 are runs of the public one, with its figures rounded (33 of 38 are among both).

What the sources' scripts state (drafts, launch settings, clients) is in evidence/data/rules/served.yaml; the rows name
engine, model and machine, not the script's commit, and where scripts changed, the one that stood longest while the rows
were measured is taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taicang.catalog import stack
from taicang.catalog.models import canonical, model
from taicang.catalog.rules import generation, launch, launched, reducing, section, settings
from taicang.catalog.stack_entry import released
from taicang.errors import InvalidInput, UnknownName
from taicang.evidence.systems import machine_named, units_of
from taicang.evidence.tables import CARRIED, held_out, lines
from taicang.formats import number_format
from taicang.models.types import Model, routed
from taicang.plans import Quantisation, ServePlan
from taicang.search.choices import formats
from taicang.stacks import Stack
from taicang.units import Count

RULES = CARRIED / "rules" / "served.yaml"
"""The file of rules with the conventions of the sources."""
WIDE = 8
"""Ranks of attention data parallelism beyond which tokens travel to their experts (a node; wide expert parallelism)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Launch settings beside the stack's own, and what a benchmark's clients add (see ``serve.scheduler.Limits``)."""

    tokens: int | None = None
    """Token budget of a step (None: the stack's); of pools, that of a prompt step."""
    graph_tokens: int | None = None
    """Longest step with prompts that is captured (None: the stack's)."""
    ahead: bool | None = None
    """Whether the next step is scheduled while one runs (None: as by the stack)."""
    hold: int = 0
    company_ratio: float = 1.0
    memory_ratio: float | None = None
    """Share of device memory that the engine takes (None: not stated in these terms)."""
    poll: int = 1
    """Decode steps between two looks for new requests where all ranks are one group (an assumed mechanism)."""
    held_back: int = 0
    """Tokens that the decode side makes before it sends anything on, the first token with them: engines stream in
    chunks of a set number of steps (a door of fixed length beside it does not help)."""
    held_back_steps: int = 0
    """The same in decode steps."""
    door_s: float | None = None
    """Of a harness whose door differs from the engine's own (None): see ``Stack``."""
    door_token_s: float = 0.0
    chats: bool = True
    """Whether prompts come as chats, which the engine makes prompts of by a template."""
    spread_ratio: float = 0.0
    """Lengths are drawn evenly within this share of the mean, where the source does not say how."""
    bounded: bool = True
    """No more sequences run at a time than the engine has room for by default (see ``predict.system.running``)."""
    warm: bool = False
    """A warm-up round is not counted."""
    rounds: int = 10
    """Prompts per client."""
    prompts: int = 0
    """Prompts of the whole run, where the row says how many (0: it does not)."""
    unstated: str = ""
    """What the row does not say and cannot be predicted without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Layout of the instances of one phase."""

    plan: ServePlan
    instances: int
    batch: int
    """Sequences of one attention group as the source states it (0: not stated)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured row in the words of this package."""

    id: str
    model: str
    net: Model
    machine: str
    engine: str
    version: str
    stack: Stack
    note: str
    """What is to be said of the version."""
    own: bool
    """Of a source whose launch scripts nobody knows."""
    source: str
    """Who measured it."""
    disaggregated: bool
    input_tokens: int
    """As stated."""
    output_tokens: int
    length_ratio: float
    """Mean over stated length of prompts and answers."""
    median_gap: bool
    """Whether the stated TPOT is the median time between tokens."""
    settings: Settings
    concurrency: Count
    prefill: Role | None
    decode: Role
    """The only role of an aggregated row."""
    ttft_s: float
    tpot_s: float

    @property
    def spread_ratio(self) -> float:
        """Lengths are drawn evenly within this share of their mean."""
        return self.settings.spread_ratio or (1.0 - self.length_ratio) / self.length_ratio

    @property
    def key(self) -> tuple[object, ...]:
        """What the evidence split hashes: the configuration but its concurrency, so that curves are held out whole."""
        plan = self.decode.plan
        return (self.model, self.machine, self.engine, self.version, self.disaggregated, plan.tp, plan.dp, plan.ep,
                self.input_tokens, self.output_tokens)  # fmt: skip

    @property
    def held_out(self) -> bool:
        """Kept from every fit."""
        return held_out("served", *self.key)

    @property
    def way(self) -> str:
        """Whether the same instances prefill and decode ("agg") or others ("disagg")."""
        return "disagg" if self.disaggregated else "agg"


SOURCES = ("inferencex", "nvidia-internal")
"""Whose conventions the rules know; rows of others mean what they say."""


def public(cells: Mapping[str, str]) -> bool:
    """Whether the source with public launch scripts measured a row."""
    return cells["source"] == SOURCES[0] or (cells["source"] == SOURCES[1] and "Qwen3.5" in cells["model_path"])


def completed(cells: Mapping[str, str], number: int) -> dict[str, str]:
    """A line of anybody's table with the columns under their own names, and with what it may leave out."""
    plain = {re.sub(r"[^a-z0-9]+", "_", key.lower()).strip("_"): value for key, value in cells.items()}
    found = dict(cells)
    for column, names in section(RULES, "columns").items():
        for name in names if not found.get(column) else ():
            late = plain.get(re.sub(r"_ms$", "_s", name)) if name.endswith("_ms") else None
            if value := plain.get(name) or (late and str(float(late) * 1e3)):
                found[column] = value
                break
    return {"source": "", "mode": "agg", "id": f"row {number}"} | {key: v for key, v in found.items() if v}


def number(row: Mapping[str, str], key: str, default: float = 0.0) -> float:
    """A numeric cell, or ``default`` where it is empty. Raises ``InvalidInput`` for what no count or time can be."""
    cell = row.get(key, "")
    if cell in ("", "nan"):
        return default
    try:
        found = float(cell)
    except ValueError:
        found = -1.0
    if not 0.0 <= found < float("inf"):
        raise InvalidInput(f"{key} is {cell!r}, not a number of at least 0")
    return found


def layout(
    tp: float, dp: float, moe_tp: float, moe_ep: float, experts: bool, *, twice: bool = False
) -> tuple[int, int, int, int]:
    """(tp, dp, moe_tp, ep) of the instance that ran, from the degrees that the source states.

    ``twice``: its tp, too, may be tp x ep of a launcher that names the same GPUs by both.
    """
    tp_, dp_, moe_tp_, ep_ = (max(int(v), 1) for v in (tp, dp, moe_tp, moe_ep))
    if twice and dp_ == 1 and moe_tp_ == ep_ > 1 and tp_ == moe_tp_ * ep_:
        return ep_, 1, 1, ep_
    if dp_ > 1:
        # attention-DP launchers state tp x ep as dp and tp x dp as ep; a node has at most eight GPUs, so larger
        # products name the same GPUs twice
        ranks = max(moe_tp_, ep_) if dp_ == moe_tp_ * ep_ and moe_tp_ == ep_ else dp_
        ep_ = ranks if ep_ > 1 or moe_tp_ == 1 else 1
        return 1, ranks, ranks // ep_, ep_
    if not experts:
        return tp_, 1, tp_, 1
    if moe_tp_ * ep_ > tp_:  # attention replicated over the expert ranks
        return tp_, moe_tp_ * ep_ // tp_, moe_tp_, ep_
    return tp_, 1, tp_ // ep_, ep_


def quantisation(net: Model, mode: str, engine: Stack, machine: str, experts: str = "") -> Quantisation:
    """Formats of the checkpoint that the row served, by tensor class, from the modes of its products and ``experts``.

    A checkpoint whose experts are scaled by blocks is so throughout. ``UnknownName`` for a mode of no known format.
    """

    def forms(form: str) -> Quantisation:
        # gpt-oss runs in its own format whatever it is called
        own = net.dtype.startswith("mxfp4") or form == number_format(net.dtype).kernel
        return formats("auto" if own else form, net, units_of(machine, 1).chip, engine)

    stated, apart = (_said("quantisation mode", each, "modes") for each in (mode, experts))
    found = forms(apart if apart == f"{stated}_block" else stated)
    if experts and apart.partition("_")[0] != stated.partition("_")[0]:
        return replace(found, experts=forms(apart).experts)
    return found


def _said(kind: str, name: str, words: str) -> Any:
    """What the section ``words`` of the rules makes of a name. Raises ``UnknownName``."""
    known = section(RULES, words)
    if name not in known:
        raise UnknownName(kind, name, known)
    return known[name]


def facts_of(cells: Mapping[str, str], net: Model, **more: Any) -> dict[str, Any]:
    """What rules may ask of a row."""
    machine = machine_named(cells["system"])
    chip = units_of(machine, 1).chip.name
    return {
        "source": cells["source"],
        "known": cells["source"] in SOURCES,
        "public": public(cells),
        "path": cells["model_path"],
        "model": net.name,
        "engine": engine_of(cells),
        "measured": cells.get("measured", ""),
        "version": cells.get("backend_version", ""),
        "precision": cells.get("precision", ""),
        "system": cells["system"],
        "chip": chip,
        "generation": generation(chip),
        "disaggregated": cells["mode"] == "disagg",
        "tp_stated": number(cells, "tp_size"),
    } | more


def drafts(cells: Mapping[str, str], net: Model, dp: int, ep: int) -> int:
    """Tokens drafted per step: as the row says, else which runs speculate is told by the model's name and layout."""
    if cells.get("draft_tokens"):
        return int(number(cells, "draft_tokens"))
    return int(settings(RULES, "drafts", facts_of(cells, net, dp=dp, ep=ep)).get("drafts", 0))


def scripted(facts: Mapping[str, Any]) -> bool:
    """Whether a row was launched as scripts have it that users' questions follow."""
    return bool(settings(RULES, "launched", facts).get("scripted", True))


def _role(row: dict[str, str], prefix: str, net: Model, instances: int) -> Role:
    experts = routed(net) is not None
    names = (f"{prefix}{name}_size" for name in ("tp", "attention_dp", "moe_tp", "moe_ep"))
    tp, dp, moe_tp, ep = (max(int(number(row, name, 1.0)), 1) for name in names)
    if row["source"] in SOURCES:
        tp, dp, moe_tp, ep = layout(tp, dp, moe_tp, ep, experts, twice=public(row))
    else:  # as it says: experts are shared out over the ranks of attention
        moe_tp = tp * dp // ep
    if not experts:
        moe_tp, ep = tp * dp, 1
    facts = facts_of(row, net, role=prefix.rstrip("_"), dp=dp, ep=ep, clients=number(row, "concurrency"))
    meant = settings(RULES, "layouts", facts) if experts else {}
    if meant.get("attention") == "tensor":
        tp, dp = tp * dp, 1
    if meant.get("experts") == "spread":
        moe_tp, ep = 1, tp * dp
    wide = experts and dp > WIDE
    engine = stack(release(row)[0])
    if kv := settings(RULES, "launched", facts).get("kv"):
        engine = replace(engine, quantised_cache=kv)
    if scripted(facts):
        engine = launched(engine, units_of(machine_named(row["system"]), 1).chip, net)
    mode, of_experts = row.get("gemm_quant_mode") or row.get("precision", ""), row.get("moe_quant_mode", "")
    if mode == "fp8" and row["source"] not in SOURCES:
        mode = (canonical(f"{net.name}-fp8") or ("", None))[1] or mode  # as the model's owner released it
    plan = ServePlan(
        tp=tp,
        dp=dp,
        pp=max(1, int(number(row, "pp_size", 1.0))),
        ep=ep,
        moe_tp=moe_tp,
        draft_tokens=drafts(row, net, dp, ep) if prefix != "prefill_" else 0,
        exchange="all_to_all" if wide else "auto",
        quant=quantisation(net, mode, engine, machine_named(row["system"]), of_experts),
    )
    return Role(plan=plan, instances=instances, batch=int(number(row, f"{prefix}batch_size")))


def read(path: Path) -> list[Row]:
    """Rows of the file, with the models that it names imported."""
    return [row_of(cells) for cells in lines(path)]


def row_of(cells: dict[str, str]) -> Row:
    """One line of such a file, with the model that it names imported."""
    net, split = model(cells["model_path"]), cells["mode"] == "disagg"
    prefill = None
    if split:
        prefill = _role(cells, "prefill_", net, max(1, int(number(cells, "prefill_num_workers", 1.0))))
        decode = _role(cells, "decode_", net, max(1, int(number(cells, "decode_num_workers", 1.0))))
        concurrency = number(cells, "concurrency", decode.batch * decode.plan.dp * decode.instances)
    else:
        decode = _role(cells, "", net, 1)
        stated = number(cells, "concurrency")
        # one replica's share: sources that ran several replicas behind one client pool state the batch of one
        whole = stated and (public(cells) or decode.plan.dp > 1)
        concurrency = stated if whole else decode.batch or stated
    plan = decode.plan
    facts = facts_of(
        cells, net, prompt=int(float(cells["isl"])), answer=int(float(cells["osl"])), tp=plan.tp, dp=plan.dp,
        experts=plan.quant.experts,
    )  # fmt: skip
    habits = settings(RULES, "sources", facts)
    facts |= {"harness": habits["harness"], "square": facts["prompt"] == facts["answer"]}
    facts["clients"], facts["stated"] = max(round(float(concurrency)), 1), number(cells, "concurrency")
    facts["replicas"] = number(cells, "concurrency") / float(concurrency or 1.0)
    facts["decoding"] = facts["clients"] // plan.dp * (int(plan.draft_tokens) + 1)
    scripts = launch(facts["engine"], facts["chip"], net.name)
    launch_set: dict[str, Any] = {"memory_ratio": scripts.get("memory_ratio") if scripted(facts) else None}
    found = Settings(**{**launch_set, **settings(RULES, "settings", facts), **_load(cells)})
    name, note = release(cells)
    engine, graph = stack(name), _said("graph mode", cells.get("graph", "").lower(), "graphs")
    engine = replace(engine, template_s=scripts.get("template_s", engine.template_s))
    return Row(
        id=cells["id"],
        model=net.name,
        net=net,
        machine=machine_named(cells["system"]),
        engine=facts["engine"],
        version=cells.get("backend_version", ""),
        stack=replace(_behind(engine, found), all_reduce=reducing(engine, scripts), graph=graph or engine.graph),
        note=note,
        own=not facts["known"],
        source=SOURCES[0] if public(cells) else cells["source"],
        disaggregated=split,
        input_tokens=facts["prompt"],
        output_tokens=facts["answer"],
        length_ratio=habits.get("length_ratio", 1.0),
        median_gap=habits.get("median_gap", False),
        settings=found,
        concurrency=concurrency,
        prefill=prefill,
        decode=decode,
        ttft_s=number(cells, "silicon_ttft_ms") / 1e3,
        tpot_s=number(cells, "silicon_tpot_ms") / 1e3 if facts["answer"] > 1 else math.nan,
    )


def _load(cells: Mapping[str, str]) -> dict[str, Any]:
    """Settings of what a row's clients sent, where it says so."""
    sent, spread = number(cells, "num_prompts"), number(cells, "spread")
    said: dict[str, Any] = {"prompts": max(round(sent), 1)} if sent else {}
    return said | ({"spread_ratio": min(spread, 1.0)} if spread else {})


def _behind(engine: Stack, said: Settings) -> Stack:
    """``engine`` as a harness launched it, behind that harness's door, where either is not its own."""
    said_of: dict[str, Any] = {"graph_tokens": said.graph_tokens, "ahead": said.ahead}
    engine = replace(engine, **{name: value for name, value in said_of.items() if value is not None})
    if not said.chats:
        engine = replace(engine, template_s=0.0)
    if said.door_s is None:
        return engine
    return replace(engine, door_s=said.door_s, door_token_s=said.door_token_s)


def engine_of(cells: Mapping[str, str]) -> str:
    """The engine of a row: as its source abbreviates it, or as the catalogue names it."""
    named = cells.get("backend") or (stack(cells["stack"]).engine if cells.get("stack") else "")
    if not named:
        raise InvalidInput("states no engine: a column backend (vllm, sglang, ...) or --stack names it")
    return str(section(RULES, "engines").get(named.lower(), named.lower()))


def release(cells: Mapping[str, str]) -> tuple[str, str]:
    """The stack of a row (that of the column ``stack``, if it has one) and what is to be said of its version."""
    if cells.get("stack"):
        return cells["stack"], ""
    return released(engine_of(cells), cells.get("backend_version", ""), cells.get("measured", ""))
