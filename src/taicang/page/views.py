"""Sections of a page from results as ``--json`` prints them, by the command that made them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from taicang.errors import InvalidInput
from taicang.page.audit import audit
from taicang.page.centre import centre
from taicang.page.links import links
from taicang.page.parts import Chart, Lines, Part, Section, Spans, Table, Unit, Words, bars, cell, packed
from taicang.page.plans import search
from taicang.page.traffic import spans, traffic
from taicang.page.trust import FIGURE, memory, table, trust

Result: TypeAlias = Mapping[str, Any]

HEADLINE: tuple[tuple[str, tuple[str, str], Unit], ...] = (
    ("output_tokens_per_s_per_chip", ("output tokens/s per chip", "每卡输出 tokens/s"), ""),
    ("machine_output_tokens_per_s", ("output tokens/s of the machine", "整机输出 tokens/s"), ""),
    ("tpot_s", ("TPOT", "TPOT"), "s"),
    ("ttft_s", ("TTFT of a lone prompt", "单请求 TTFT"), "s"),
    ("loaded_ttft_s", ("TTFT under load", "满载 TTFT"), "s"),
    ("power_w_per_chip", ("power per chip", "每卡功率"), "W"),
    ("output_tokens_per_s_per_w", ("output tokens/s per watt", "每瓦输出 tokens/s"), ""),
    ("output_tokens_per_s_per_usd", ("output tokens/s per USD", "每美元输出 tokens/s"), ""),
    ("output_tokens_per_s_per_cny", ("output tokens/s per CNY", "每元输出 tokens/s"), ""),
)


def sections(kind: str, result: Any) -> list[Section]:
    """The views of a result of the command ``kind``."""
    return VIEWS[kind](result)


def kind_of(result: Any, where: str) -> str:
    """Which command made ``result``; ``InvalidInput`` where none did."""
    first = result[0] if isinstance(result, list) and result else result
    if isinstance(first, dict):
        for kind, keys in KEYS.items():
            if keys <= set(first):
                return kind
        values = list(first.values())
        if values and all(isinstance(each, dict) and {"model", "machine"} <= set(each) for each in values):
            return "compare"
    raise InvalidInput(f"no result of {', '.join(VIEWS)} as --json prints it", where=where)


def _infeasible(result: Result) -> list[Section]:
    rows = tuple((name, cell(result.get(name))) for name in ("reason", "needed", "available"))
    remedies = Lines(title=("what would help", "可行的调整"), lines=tuple(result.get("remedies", ())))
    return [Section(key="plan", title=("Plan", "方案"), parts=(table(("does not fit", "放不下"), rows), remedies))]


def _step(phase: Result, title: tuple[str, str]) -> list[Chart]:
    parts: dict[str, float] = {}
    largest: dict[str, float] = {}
    for piece in phase["step"]["slices"]:
        seconds = float(piece["cost"]["seconds"]) * float(piece["repeat"])
        parts[piece["part"]] = parts.get(piece["part"], 0.0) + seconds
        largest[piece["label"]] = largest.get(piece["label"], 0.0) + seconds
    top = dict(sorted(largest.items(), key=lambda item: -item[1])[:12])
    return [
        bars((f"{title[0]}: where a step's time goes", f"{title[1]}：单步时间构成"), parts, "s", kind="waterfall"),
        bars((f"{title[0]}: largest operators", f"{title[1]}：最耗时的算子"), top, "s"),
    ]


def infer(result: Result) -> list[Section]:
    """A served model on a machine."""
    if "reason" in result:
        return _infeasible(result)
    rows: list[tuple[str | Words, ...]] = [(words, cell(result.get(key), unit)) for key, words, unit in HEADLINE]
    phases = {name: result[name] for name in ("decode", "prefill")}
    rows += [
        (f"{name}: room for the cache, tokens per rank", cell(phase.get("cache_room_tokens")))
        for name, phase in phases.items()
    ]
    headline = table((f"{result['model']} on {result['machine']}, {result['stack']}",) * 2, rows)
    held = memory({name: phase["memory"] for name, phase in phases.items()})
    charts = [*_step(phases["decode"], ("decode", "decode")), *_step(phases["prefill"], ("prefill", "prefill"))]
    return [Section(key="plan", title=("Plan", "方案"), parts=(headline, held, *charts)), trust(result)]


def compare(result: Result) -> list[Section]:
    """Machines side by side; the first that has a plan in full."""
    fit = {name: each for name, each in result.items() if "reason" not in each}
    rows: tuple[tuple[str | Words, ...], ...] = tuple(
        (words, *(cell(each.get(key), unit) if "reason" not in each else "–" for each in result.values()))
        for key, words, unit in HEADLINE
    )
    beside = Table(title=("machines", "机器"), columns=(FIGURE, *((name, name) for name in result)), rows=rows)
    charts = [
        bars(words, {name: each.get(key) or 0.0 for name, each in fit.items()}, unit)
        for key, words, unit in HEADLINE
        if any(each.get(key) for each in fit.values())
    ]
    found = [Section(key="machines", title=("Machines", "机器对比"), parts=(beside, *charts))]
    refused = tuple(f"{name}: {each['reason']}" for name, each in result.items() if "reason" in each)
    if refused:
        found += [Section(key="no", title=("No plan", "无方案"), parts=(Lines(title=("why", "原因"), lines=refused),))]
    for index, (name, each) in enumerate(fit.items()):
        plan, ground = infer(each)
        found.append(Section(key=f"plan{index}", title=(name, name), parts=(*plan.parts, *ground.parts)))
    return found


def train(result: Result) -> list[Section]:
    """A training step."""
    made = result["prediction"]
    if "reason" in made:
        return _infeasible(made)
    step, extra = made["step"], result.get("explained") or made.get("explained") or {}
    rows: list[tuple[str | Words, ...]] = [
        (("step", "单步时间"), cell(step["seconds"], "s")),
        ("tokens/s", cell(step["tokens_per_s"])),
        (("tokens/s per chip", "每卡 tokens/s"), cell(made["tokens_per_s_per_chip"])),
        ("MFU", cell(made["mfu_ratio"], "ratio")),
        (("chips", "卡数"), cell(made["chips"])),
        (("parameters", "参数量"), cell(step["parameters"])),
    ]
    stages = extra.get("stage_memory") or ()
    uses = {f"stage {number}": each for number, each in enumerate(stages)} or {"fullest rank": step["memory"]}
    parts: list[Part] = [
        table((f"{made['model']} on {made['machine']}, {made['stack']}",) * 2, rows),
        memory(uses),
        bars(
            ("from the peak down: share of a step", "从峰值到实际：单步占比"),
            made["waterfall"],
            "ratio",
            kind="waterfall",
        ),
        bars(("where the time goes", "时间构成"), step["spent"], "s", kind="waterfall"),
    ]
    if gains := extra.get("gain_ratio"):
        title = ("share of the step that 10 % more of a resource saves", "某项资源增加 10 % 时节省的单步占比")
        parts.append(bars(title, gains, "ratio"))
    parts += _pipeline(extra.get("trace") or {})
    return [Section(key="training", title=("Training", "训练"), parts=tuple(parts)), trust(made)]


def _pipeline(trace: Result) -> list[Part]:
    """The passes of each pipeline rank, from trace events."""
    passes = [each for each in trace.get("traceEvents", ()) if each["ph"] == "X"]
    if not passes:
        return []
    rows = []
    for each in passes:
        begin, end = each["ts"] / 1e6, (each["ts"] + each["dur"]) / 1e6
        rows.append((begin, end if each["cat"] == "forward" else begin, end, each["pid"]))
    shown, whole = (trace["otherData"][key] for key in ("microbatches shown", "microbatches"))
    said = (
        f"the pipeline: {shown} of {whole} microbatches a rank, and what follows them",
        f"流水线：每个 rank 的 {whole} 个 microbatch 中的 {shown} 个，以及其后的工作",
    )
    legend = ("Half height: forward; full height: backward and the end of the step.", "半高：前向；全高：反向与收尾。")
    lanes = tuple(f"rank {number}" for number in range(1 + int(max(row[3] for row in rows))))
    data = packed(sorted(rows, key=lambda row: row[2]))
    return [Spans(title=said, lanes=lanes, data=data, legend=legend)]


def replay(result: Result) -> list[Section]:
    """Traffic, every request, and what it rests on."""
    made = [Section(key="traffic", title=("Traffic", "流量"), parts=traffic(result))]
    if told := spans(result):
        made.append(Section(key="requests", title=("Requests", "请求"), parts=told))
    return [*made, trust(result)]


def check(result: Result) -> list[Section]:
    """A benchmark against its replay."""
    figures = result["figures"]
    unit: Callable[[Result], Unit] = lambda each: "" if each["name"].endswith("per_s") else "s"  # noqa: E731
    rows = tuple(
        (
            each["name"],
            cell(each["measured"], unit(each)),
            cell(each["predicted"], unit(each)),
            f"{each['error_ratio']:+.1%}",
        )
        for each in figures
    )
    beside = Table(
        title=(f"{result['model']} on {result['machine']}",) * 2,
        columns=(FIGURE, ("measured", "实测"), ("predicted", "预测"), ("error", "误差")), rows=rows,
    )  # fmt: skip
    left = {cause["change"]: cause["gap_ratio"] for cause in result["causes"]}
    parts: tuple[Part, ...] = (beside,)
    if left:
        parts += (bars(("share of the gap that is left with a change", "各改动后剩余的误差"), left, "ratio"),)
    parts += (Lines(title=("notes", "说明"), lines=tuple(result["notes"])),)
    return [Section(key="check", title=("Check", "核对"), parts=parts), trust(result)]


VIEWS: Mapping[str, Callable[[Any], list[Section]]] = {
    "infer": infer, "search": search, "compare": compare, "train": train, "replay": replay, "check": check,
    "centre": centre, "fabric": links, "audit": audit,
}  # fmt: skip
KEYS: Mapping[str, set[str]] = {
    "check": {"figures", "causes", "model"},
    "replay": {"summary", "pools", "router"},
    "train": {"infeasible", "prediction"},
    "search": {"machine", "best", "front"},
    "centre": {"chip_hour", "tornado"},
    "audit": {"claim", "verdict", "commands"},
    "fabric": {"machine", "hottest", "levels"},
    "infer": {"infeasible", "model", "machine"},
}
"""Keys by which a stored result is known."""
