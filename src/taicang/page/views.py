"""Sections of a page from results as ``--json`` prints them, by the command that made them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from taicang.errors import InvalidInput
from taicang.page.audit import audit
from taicang.page.centre import centre
from taicang.page.links import links
from taicang.page.parts import (
    FIGURE,
    Chart,
    Lines,
    Part,
    Pick,
    Section,
    Spans,
    Table,
    Unit,
    Words,
    bars,
    cell,
    memory,
    packed,
    table,
    trust,
    words,
)
from taicang.page.port import port
from taicang.page.rows import calibrate, query, runs, score, trace
from taicang.page.traffic import spans, traffic

Result: TypeAlias = Mapping[str, Any]

HEADLINE = words("headline")


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


def _plan_text(choice: Result) -> str:
    def degrees(plan: Result) -> str:
        named = (("TP", "tp"), ("DP", "dp"), ("PP", "pp"), ("EP", "ep"), ("MTP", "draft_tokens"))
        return " ".join(f"{short}{plan[key]}" for short, key in named if plan.get(key, 0) > (key != "draft_tokens"))

    return "; ".join(
        f"{pool['instances']} x {degrees(pool['plan']) or 'TP1'}, batch {pool['sequences']:g}"
        for pool in choice["pools"]
    )


FRONT: Words = ("speed of a user against throughput of a chip", "单用户速度与单卡吞吐")


def search(result: Sequence[Result]) -> list[Section]:
    """The front of all machines with some plans of each in detail, then the best of each machine."""
    found = []
    series: list[dict[str, Any]] = []
    names: list[str] = []
    told: list[tuple[Part, ...]] = []
    for each in result:
        known = [(detail, _choice(each, detail)) for detail in each.get("plans") or ()]
        mine = [f"{each['machine']}: {_rank(detail)}{_plan_text(choice)}" for detail, choice in known]
        # an answer of one token has no speed
        if quick := [one for one in each.get("front") or () if one["tpot_s"] is not None]:
            series.append({"name": each["machine"], "data": [_point(one, _plan_text(one)) for one in quick]})
        if known:
            points = [_point(choice, name) for (_, choice), name in zip(known, mine, strict=True) if choice["tpot_s"]]
            series.append({"name": f"{each['machine']}: in detail", "data": points, "marked": True})
        names += mine
        told += [_detail(detail, choice) for detail, choice in known]
    if series:
        front = Chart(
            title=FRONT, kind="points", series=tuple(series), x=("tokens/s of one user", "单用户 tokens/s"),
            y=("output tokens/s per chip", "每卡输出 tokens/s"), wide=True,
        )  # fmt: skip
        parts: list[Part] = [front]
        if told:
            pick = Pick(title=("a plan by itself", "单个方案"), names=tuple(names), choices=tuple(told), of=FRONT[0])
            parts.append(pick)
        found.append(Section(key="front", title=("Front", "Pareto 前沿"), parts=tuple(parts)))
    return [*found, *(_machine(index, each) for index, each in enumerate(result))]


def _choice(each: Result, detail: Result) -> Result:
    found: Result = each["best"][detail["rank"] - 1] if detail["rank"] else each["front"][detail["place"]]
    return found


def _rank(detail: Result) -> str:
    return f"#{detail['rank']} " if detail["rank"] else ""


def _point(choice: Result, said: str) -> list[Any]:
    return [1.0 / choice["tpot_s"], choice["output_tokens_per_s_per_chip"], said]


def _detail(detail: Result, choice: Result) -> tuple[Part, ...]:
    """A plan's figures, why it is not first, the waterfall of its steps, its memory and what more would buy."""
    rows = (
        (("output tokens/s per chip", "每卡输出 tokens/s"), cell(choice["output_tokens_per_s_per_chip"])),
        ("TPOT", cell(choice["tpot_s"], "s")),
        ("TTFT", cell(choice["ttft_s"], "s")),
        (("chips in use", "使用卡数"), cell(choice["chips"])),
    )
    limits = tuple(
        f"{each['role']}: {each['resource']} takes {each['share_ratio']:.0%} of the busy time; {each['next_batch']}"
        for each in detail["bounds"]
    )
    parts: list[Part] = [
        table(("figures", "指标"), rows),
        memory(detail["memory"]),
        *(
            bars((f"{role}: where a step's time goes", f"{role}：单步时间构成"), spent, "s", kind="waterfall")
            for role, spent in detail["spent_s"].items()
        ),
    ]
    if detail["gains"]:
        title = ("what 10 % more of a resource buys", "某项资源增加 10 % 的收益")
        parts.append(bars(title, {each["resource"]: each["gain_ratio"] for each in detail["gains"]}, "ratio"))
    parts.append(Lines(title=("what holds it back", "瓶颈"), lines=limits))
    parts.append(Lines(title=("against the best", "与最优方案相比"), lines=tuple(detail["lost"])))
    return tuple(parts)


def _machine(index: int, each: Result) -> Section:
    replays = {one["rank"]: one for one in each.get("replayed") or ()}
    rows = tuple(
        (
            str(rank), _plan_text(one), cell(one["output_tokens_per_s_per_chip"]), cell(one["tpot_s"], "s"),
            cell(one["ttft_s"], "s"), _verdict(replays.get(rank)),
        )
        for rank, one in enumerate(each.get("best") or (), 1)
    )  # fmt: skip
    columns = (
        ("rank", "名次"), ("plan", "方案"), ("output tokens/s per chip", "每卡输出 tokens/s"), ("TPOT", "TPOT"),
        ("TTFT", "TTFT"), ("replayed", "回放"),
    )  # fmt: skip
    parts: list[Part] = [Table(title=("best plans", "最优方案"), columns=columns, rows=rows)] if rows else []
    chosen = each.get("chosen") or {}
    if chosen.get("why"):
        said = (str(chosen["why"]), *map(str, chosen["passed"]))
        parts.append(Lines(title=("why this one", "为何选它"), lines=said))
    if each.get("nearest"):
        parts.append(Lines(title=("what came closest", "最接近的方案"), lines=tuple(map(str, each["nearest"]))))
    ground = trust({**each, "bands": (chosen.get("choice") or {}).get("bands")}) if chosen else None
    title = (each["machine"],) * 2
    return Section(key=f"best{index}", title=title, parts=(*parts, *(ground.parts if ground else ())))


def _verdict(replayed: Result | None) -> str:
    if replayed is None:
        return "–"
    rate = cell(replayed["output_tokens_per_s_per_chip"])
    return f"{rate}, {'keeps its limits' if replayed['keeps'] else 'does not keep its limits'}"


VIEWS: Mapping[str, Callable[[Any], list[Section]]] = {
    "infer": infer, "search": search, "compare": compare, "train": train, "replay": replay, "check": check,
    "centre": centre, "fabric": links, "audit": audit, "port": port, "score": score, "runs": runs, "trace": trace,
    "calibrate": calibrate, "query": query,
}  # fmt: skip
KEYS: Mapping[str, set[str]] = {
    "check": {"figures", "causes", "model"},
    "replay": {"summary", "pools", "router"},
    "train": {"infeasible", "prediction"},
    "search": {"machine", "best", "front"},
    "centre": {"chip_hour", "tornado"},
    "audit": {"claim", "verdict", "commands"},
    "fabric": {"machine", "hottest", "levels"},
    "port": {"root", "tiers", "findings"},
    "score": {"suites", "rows", "drifts"},
    "trace": {"requests", "interarrival_cv"},
    "calibrate": {"refused", "file"},
    "infer": {"infeasible", "model", "machine"},
}
"""Keys by which a stored result is known."""
