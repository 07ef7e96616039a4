"""Published training measurements as jobs: model, machine, plan, stack and the figure to be predicted.

What a row leaves open follows one rule each, fixed before any score: data parallelism fills the chips; a distributed
optimizer wherever the row names no other sharding; microbatches of one sequence; interleaving only where it is named;
recomputed parts and uneven stages as the publisher's recipes have them. Rows that drop tokens beyond a capacity of one
give every expert what balanced routing gives it, and are lowered like these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taicang.catalog.models import model as load_model
from taicang.catalog.rules import section, settings
from taicang.errors import NotModelled, UnknownName
from taicang.evidence.systems import TRAINING, stack_named
from taicang.evidence.tables import held_out, lines, parsed
from taicang.models.types import Block, Dense, GroupedQuery, Model, routed
from taicang.train.flops import megatron_flop, model_flop
from taicang.train_plans import WAVES, Schedule, TrainPlan, recipe

FILE = "published_training.csv"
NO_STEP = {"time_to_train": "a run to an accuracy", "outcome": "whether a run fits"}
"""Metrics that no step time follows from -> what they are."""
SMALL_RANKS = 64
"""Constants are fitted on runs up to this size only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement. ``step_s`` is the measured step time, converted from throughput where that was published."""

    id: str
    source: str
    suite: str
    chip: str
    count: int
    model: str
    seq: int
    batch: int
    metric: str
    role: str
    step_s: float
    held_out: bool
    refused: str = ""
    """Why the row cannot be compared."""
    raw: Mapping[str, Any]

    @property
    def small(self) -> bool:
        """Whether constants may be fitted on it."""
        return self.count <= SMALL_RANKS


def publisher(row: Row) -> str:
    """Who measured it, whatever the date of the publication."""
    return re.sub("[_0-9]+$", "", " ".join(row.source.split()[:2]))


def training_rows(path: Path) -> list[Row]:
    """All rows; those that measure no step say so in ``refused``."""
    listed = [parsed(row) for row in lines(path)]
    for raw in listed:
        _borrow(raw, listed)
    return [row_of(raw) for raw in listed]


def _borrow(raw: dict[str, Any], listed: list[dict[str, Any]]) -> None:
    """Fill a layout that a pre-training row leaves out from its nearest kin in size (same publisher, model and chip).

    A row without any layout takes its kin's; one that lacks interleaving only takes that of kin with as many stages.
    """
    par = raw["par"]
    publisher = raw["src"].rstrip("0123456789")
    if "LoRA" in raw["model"] or publisher not in ("mlperf_tr_", "mbridge"):
        return
    stages = par.get("pp", 1)
    if par and (stages == 1 or "vp" in par):
        return
    kin = [
        other
        for other in listed
        if other["src"].rstrip("0123456789") == publisher
        and (other["model"], other["chip"]) == (raw["model"], raw["chip"])
        and (other["par"].get("vp") and other["par"]["pp"] == stages if par else "pp" in other["par"])
    ]
    if kin:
        size = float(raw["count"])
        near = min(kin, key=lambda other: abs(float(other["count"]) - size))["par"]
        raw["par"] = par | {"vp": near["vp"]} if par else near


def row_of(raw: dict[str, Any]) -> Row:
    """One parsed line as a job."""
    count, seq = int(float(raw["count"])), int(raw["seq"].get("seq_len", 0))
    par, batch = raw["par"], raw["batch"]
    inner = max(par.get("tp", 1), 1) * par.get("pp", 1) * max(par.get("cp", 1), 1)
    sequences = int(batch.get("gbs") or batch.get("local_batch", 0) * count // inner)
    seconds, refused = _seconds(raw, count, seq, sequences)
    tuned = "LoRA" in raw["model"] or raw["extra"].get("task") in ("lora", "sft")
    facts = {"source": raw["src"], "model": raw["model"], "dtype": raw["dtype"], "tuned": tuned}
    said = settings(TRAINING, "suites", facts)
    key = (raw["model"], count, raw["dtype"], json.dumps(par, sort_keys=True), sequences, seq)
    return Row(
        id=raw["id"],
        source=raw["src"],
        suite=said["suite"],
        chip=raw["chip"],
        count=count,
        model=raw["model"],
        seq=seq,
        batch=sequences,
        metric=raw["metric"],
        role=raw["role"],
        step_s=seconds,
        held_out=count > SMALL_RANKS or raw["role"] == "validation" or "held" in said or held_out("training", *key),
        refused=refused,
        raw=raw,
    )


def _seconds(raw: dict[str, Any], count: int, seq: int, sequences: int) -> tuple[float, str]:
    metric, extra = raw["metric"], raw["extra"]
    if metric in NO_STEP:
        return float("nan"), f"{NO_STEP[metric]}, not a step"
    if not sequences * seq:
        return float("nan"), "the row states no global batch or no sequence length"
    value = float(raw["value"])
    if metric == "step_time":
        return value, ""
    if metric == "tokens_per_s_per_gpu":
        return sequences * seq / (value * count), ""
    if metric == "gpu_hours_per_trillion_tokens":
        return sequences * seq / 1e12 * value * 3600.0 / count, ""
    if metric in ("hardware_tflops_per_gpu", "model_tflops_per_gpu") and "hidden" in extra:
        flop = megatron_flop(
            layers=extra["layers"],
            hidden=extra["hidden"],
            vocab=extra["vocab"],
            seq=seq,
            sequences=float(sequences),
            recompute=metric.startswith("hardware"),
        )
        return float(flop) / (value * 1e12 * count), ""
    if raw["src"] == "moezoo" and metric == "model_tflops_per_gpu":  # its rows with step times count as we do
        return float(model_flop(load_model(raw["model"]), seq, float(sequences))) / (value * 1e12 * count), ""
    return float("nan"), f"{metric} without a stated FLOP convention"


def model_of(row: Row) -> Model:
    """The model, with the sizes that the row gives in place of those of its name."""
    extra = row.raw["extra"]
    try:
        found = _named(row.model.split(" (")[0].removesuffix("-LoRA"))
    except UnknownName:
        if (stated := _stated_model(row.model, row.seq, {**extra, **extra.get("arch", {})})) is None:
            raise
        return stated
    hidden, layers = int(extra.get("hidden", found.hidden)), int(extra.get("layers", found.layers))
    if row.source == "megatron_h100" and hidden != found.hidden:
        heads = int(extra["heads"])
        block = replace(
            found.blocks[0],
            attention=GroupedQuery(heads=heads, kv_heads=heads, head_dim=hidden // heads),
            ffn=Dense(inter=4 * hidden, gated=False),
        )
        found = replace(found, hidden=hidden, blocks=(block,))
    if window := int(extra.get("window") or section(TRAINING, "windows").get(row.model, 0)):
        found = replace(found, blocks=tuple(_windowed(block, window) for block in found.blocks))
    if "vocab" in extra:
        found = replace(found, vocab=int(extra["vocab"]))
    if layers != found.layers and len(found.blocks) == 1:
        found = replace(found, blocks=(replace(found.blocks[0], count=layers),))
    if row.model.startswith("DeepSeekV3 (w/o"):
        found = replace(found, mtp_layers=0)
    return found


def _windowed(block: Block, window: int) -> Block:
    mixer = block.attention
    return replace(block, attention=replace(mixer, window=window)) if isinstance(mixer, GroupedQuery) else block


def _named(name: str) -> Model:
    """The model of a row's name, which may go on to say how it ran ("llama2-70b 32p", "mistral-7b-32k")."""
    name = section(TRAINING, "models").get(name, name)
    try:
        return load_model(name)
    except UnknownName:
        first = re.sub(r"-\d+k$", "", name.split()[0])
        if first == name:
            raise
        return load_model(first)


def _stated_model(name: str, context: int, sizes: Mapping[str, Any]) -> Model | None:
    """The dense model of a row that states ``layers hidden heads vocab``; None of one that does not.

    A stated ``ffn`` is a gated one, as in Llama; without it it is GPT's: two matrices, four times as wide.
    """
    if not {"layers", "hidden", "heads", "vocab"} <= set(sizes):
        return None
    layers, hidden, heads, vocab = (int(sizes[key]) for key in ("layers", "hidden", "heads", "vocab"))
    gpt = "ffn" not in sizes
    block = Block(
        count=layers,
        attention=GroupedQuery(
            heads=heads,
            kv_heads=int(sizes.get("kv", heads)),
            head_dim=hidden // heads,
            bias=gpt,
            out_bias=gpt,
        ),
        ffn=Dense(inter=int(sizes.get("ffn", 4 * hidden)), gated=not gpt, bias=gpt),
    )
    return Model(
        name=name, hidden=hidden, vocab=vocab, blocks=(block,), tied_embeddings=gpt, dtype="bf16", max_context=context
    )


def stack_of(row: Row) -> str:
    """The software stack: one that the row names as "engine@version", else by source and release, else by its words.

    That of the column ``stack``, if there is one, before them all.
    """
    if row.raw.get("stack"):
        return str(row.raw["stack"])
    software = row.raw["sw"]
    if "@" in software:
        return stack_named(software)
    if known := settings(TRAINING, "stacks", {"source": row.source, "chip": row.chip}).get("stack"):
        return str(known) + (release(row) if known.endswith("@") else "")
    if not software:
        raise NotModelled(f"software of {row.source}: name a stack in the column 'sw'")
    return stack_named(software)


def release(row: Row) -> str:
    """Of NeMo, as a row's software says it."""
    return str(row.raw["sw"]).removeprefix("NeMo ")


def of_source(row: Row) -> Mapping[str, Any]:
    """What is known of the source of a row: ``recipes``, ``uneven``."""
    return settings(TRAINING, "sources", {"source": row.source})


def script_of(row: Row) -> Mapping[str, Any]:
    """What the scripts behind a row do beyond it: of submissions to MLPerf, or its source's recipes."""
    raw = row.raw
    facts = {
        "source": row.source, "system": raw.get("system", ""), "model": row.model, "chip": row.chip, "count": row.count,
        "dtype": raw["dtype"], "release": release(row), "task": raw["extra"].get("task", ""),
    }  # fmt: skip
    return settings(TRAINING, "recipes" if "recipes" in of_source(row) else "submitted", facts)


def stages(model: str, layers: int, chunks: int) -> str:
    """Layers of each chunk where the recipe deals them unevenly (``TrainPlan.stages``); empty where it deals evenly.

    Embedding, MTP and head of DeepSeek-V3 and Kimi-K2 weigh as three layers: all chunks but the last are full
    ("Et*4|(t*4|)*14tmL" for 16 chunks, "Et|(tt|)*30mL" for 32).
    """
    if chunks == 1 or layers != 61 or not model.startswith(("DeepSeekV3", "DeepSeek-V3", "Kimi")):
        return ""
    each = -(-(layers + 3) // chunks)
    last = layers - each * (chunks - 1)
    return ",".join([f"E{each + min(last, 0)}", *[str(each)] * (chunks - 2), f"{max(last, 0)}ML"])


def plan_of(row: Row, model: Model) -> TrainPlan:
    """The layout, completed by the rules of the module's docstring."""
    par, batch, extra = row.raw["par"], row.raw["batch"], row.raw["extra"]
    known = script_of(row)
    par, batch, dtype = par | known.get("par", {}), batch | known.get("batch", {}), known.get("dtype", row.raw["dtype"])
    forms = section(TRAINING, "formats")
    form = forms.get(dtype) or forms.get(dtype.upper())
    if form is None:
        raise NotModelled(f"recipe {dtype}")
    lora = "LoRA" in row.model or extra.get("task") == "lora"
    fsdp = par.get("fsdp") not in (None, 0) or "sharding" in par
    said = settings(TRAINING, "plans", _facts(row, par, sharded=fsdp))
    (tp, pp, cp, dp), micro = _degrees(row, par, batch, said, lora=lora)
    ep, etp = _experts(par, extra, said) if routed(model) else (1, 1)
    if part := re.search(r"^full.*?(\d+) of each chunk", str(extra.get("recompute"))):
        each = model.layers / (row.raw["par"].get("pp", 1) * row.raw["par"].get("vp", 1))
        said["recompute_ratio"] = int(part[1]) / each
    if "again" in known:
        said |= {"recompute": "full", "recompute_ratio": known["again"] / model.layers}
    if "recompute_modules" in known:
        said |= {"recompute": "selective", "recompute_modules": known["recompute_modules"]}
    vpp, chunk = int(par.get("vp") or 1), said.get("chunk_layers")
    if chunk and model.layers % (chunk * pp) == 0:
        vpp = model.layers // pp // chunk
    schedule: Schedule = said.get("schedule") or extra.get("schedule", "1f1b")
    vpp = 2 if schedule in WAVES else vpp
    return TrainPlan(
        tp=tp,
        cp=cp,
        pp=pp,
        dp=dp,
        ep=ep,
        etp=etp,
        vpp=vpp if pp > 1 else 1,
        micro_batch=micro,
        global_batch=row.batch,
        local_batch=int(batch.get("local_batch") or 0) if pp > 1 and "mbs" in batch else 0,
        seq=row.seq,
        document_tokens=float(extra.get("documents", said.get("document_tokens", 0.0))),
        document_spread_ratio=float(extra.get("documents_cv", 0.0)),
        padded=bool(extra.get("padded", False)),
        sp=bool(extra.get("sp", said.get("sp", True))),
        recompute=said.get("recompute", "none"),
        recompute_modules=tuple(said.get("recompute_modules", ("core",))),
        recompute_ratio=said.get("recompute_ratio", 1.0),
        stages=stages(row.model, model.layers, pp * (vpp if pp > 1 else 1))
        if "uneven" in of_source(row)
        else extra.get("stages", ""),
        zero=int(par.get("zero", extra.get("zero", said.get("zero", 1)))),
        shard=int(par.get("zero_group", 0)),
        reshard=par.get("sharding") != "SHARD_GRAD_OP",
        context=extra.get("context", "ring"),
        schedule=schedule,
        recipe=recipe(said.get("recipe", form)),
        trained_ratio=0.0 if lora else 1.0,
        activations_away_ratio=(known.get("away_layers", 0) if fsdp else 0) / model.layers,
        moments=extra.get("moments", "fp32"),
        master=extra.get("master", "fp32"),
    )


def _facts(row: Row, par: Mapping[str, Any], *, sharded: bool) -> dict[str, Any]:
    """What rules of plans may ask of a row laid out so."""
    extra = row.raw["extra"]
    return {
        "source": row.source, "chip": row.chip, "model": row.model, "count": row.count, "stack": stack_of(row),
        "notes": row.raw["notes"], "recomputed": str(extra.get("recompute")), "pp": int(par.get("pp") or 1),
        "checkpointed": bool(extra.get("act_ckpt")), "sharded": sharded, "context": extra.get("cp", ""),
        "experts": str(extra.get("ep", "")), "task": extra.get("task", ""),
    }  # fmt: skip


def _degrees(
    row: Row, par: Mapping[str, Any], batch: Mapping[str, Any], said: Mapping[str, Any], *, lora: bool
) -> tuple[tuple[int, int, int, int], int]:
    """Tensor, pipeline, context and data parallelism, and sequences of a microbatch."""
    tp, pp, cp = (int(par.get(name) or 1) for name in ("tp", "pp", "cp"))
    cp = said.get("cp", cp)
    micro = int(batch.get("mbs") or said.get("micro_batch") or batch.get("local_batch") or 1)
    if not {"tp", "pp", "dp", "fsdp", "mp"} & set(par) or (lora and "tp" not in par):
        tp, cp = _open(row, micro, tp, pp, cp)
    while row.batch % max(row.count // (tp * pp * cp), 1) and not {"cp", "dp"} & set(par) and cp < row.count:
        cp *= 2  # context parallelism takes the ranks that the batch cannot fill
    ranks = row.count * (2 if row.chip == "Ascend-910C" else 1)  # of packages of two dies there are two ranks each
    dp = ranks // (tp * pp * cp)
    if dp * tp * pp * cp != ranks:
        raise NotModelled(f"tp {tp} x cp {cp} x pp {pp} does not divide {row.count} chips")
    while row.batch % (dp * micro) and micro > 1:
        micro -= 1
    return (tp, pp, cp, dp), micro


def _open(row: Row, micro: int, tp: int, pp: int, cp: int) -> tuple[int, int]:
    """Tensor and context parallelism where the row names none: what accumulation and batch leave of the chips.

    Model-parallel ranks are count x accumulation x micro batch / global batch; tensor parallel on 80 GB, else context.
    """
    steps = int(row.raw["batch"].get("ga") or 1)
    wide = max(row.count * steps * micro // max(row.batch, 1) // pp, 1)
    if row.chip == "H100-SXM":
        tp = min(wide, 4) if tp == 1 else tp
        return tp, max(wide // tp, 1)
    return tp, max(wide // tp, cp)


def _experts(par: Mapping[str, Any], extra: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[int, int]:
    if "ep" in par:
        return int(par["ep"]), int(par.get("etp", 0))
    if extra.get("experts_sharded_by_tp"):
        return 1, int(par.get("tp", 1))
    if "ep" not in extra:
        raise NotModelled("expert parallelism is not given")
    etp = par.get("tp", 1) if "experts_like_rest" in said else 0
    return int(said.get("ep", extra["ep"])), int(extra.get("etp", etp))
