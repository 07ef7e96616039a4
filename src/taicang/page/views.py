"""Sections of a page from results as ``--json`` prints them, by the command that made them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from taicang.errors import InvalidInput
from taicang.page.centre import centre
from taicang.page.parts import Chart, Lines, Section, Table, Unit, Words, bars, cell, stacked
from taicang.page.traffic import spans, traffic

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
MEMORY = {
    "attention_bytes": "attention", "dense_bytes": "feed-forward", "experts_bytes": "experts",
    "shared_bytes": "shared experts", "embedding_bytes": "embedding and head", "draft_bytes": "draft layers",
    "cache_bytes": "KV cache", "activation_bytes": "activations", "exchange_bytes": "exchange buffers",
    "runtime_bytes": "runtime", "withheld_bytes": "withheld", "weights_bytes": "weights",
    "gradients_bytes": "gradients", "optimizer_bytes": "optimizer", "activations_bytes": "activations",
    "working_bytes": "working",
}  # fmt: skip
FIGURE = ("figure", "指标")
VALUE = ("value", "数值")


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
    return [Section(key="plan", title=("Plan", "方案"), parts=(_table(("does not fit", "放不下"), rows), remedies))]


def _table(title: Words, rows: Sequence[tuple[str | Words, ...]]) -> Table:
    return Table(title=title, columns=(FIGURE, VALUE), rows=tuple(rows))


def _trust(result: Result) -> Section:
    """Bands with what they rest on, assumptions and sources."""
    known = result.get("bands") or {}
    bands = [{"figure": name} | dict(each) for name, each in known.items()] if isinstance(known, Mapping) else []
    columns = list(dict.fromkeys(key for each in bands for key in each))

    def unit(key: str) -> Unit:
        return "ratio" if key.endswith("_ratio") else ""

    table = Table(
        title=("error bands", "误差带"),
        columns=tuple((key.removesuffix("_ratio").replace("_", " "),) * 2 for key in columns),
        rows=tuple(tuple(cell(each.get(key), unit(key)) for key in columns) for each in bands),
    )
    lists = (
        Lines(title=("assumptions", "假设"), lines=tuple(result.get("assumptions") or ())),
        Lines(title=("sources", "来源"), lines=tuple(result.get("sources") or ())),
        Lines(
            title=("made by", "生成"),
            lines=(f"catalogue {str(result.get('digest'))[:12]}, taicang {result.get('version')}",),
        ),
    )
    return Section(key="trust", title=("Trust", "可信度"), parts=((table,) if bands else ()) + lists)


def _step(phase: Result, title: tuple[str, str]) -> list[Chart]:
    parts: dict[str, float] = {}
    largest: dict[str, float] = {}
    for piece in phase["step"]["slices"]:
        seconds = float(piece["cost"]["seconds"]) * float(piece["repeat"])
        parts[piece["part"]] = parts.get(piece["part"], 0.0) + seconds
        largest[piece["label"]] = largest.get(piece["label"], 0.0) + seconds
    top = dict(sorted(largest.items(), key=lambda item: -item[1])[:12])
    return [
        bars((f"{title[0]}: where a step's time goes", f"{title[1]}：单步时间构成"), parts, "s"),
        bars((f"{title[0]}: largest operators", f"{title[1]}：最耗时的算子"), top, "s"),
    ]


def _memory(uses: Mapping[str, Result]) -> Chart:
    parts: dict[str, list[float]] = {}
    for key, name in MEMORY.items():
        if any(key in use for use in uses.values()):
            less = "apart_bytes" if key == "activations_bytes" else ""  # gone before the gradients beside them come
            parts[name] = [float(use.get(key) or 0.0) - float(use.get(less) or 0.0) for use in uses.values()]
    free = [
        max(float(use["capacity_bytes"]) - sum(part[i] for part in parts.values()), 0.0)
        for i, use in enumerate(uses.values())
    ]
    return stacked(("memory of a rank", "单卡（die）显存"), list(uses), parts | {"free": free}, "B")


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
    headline = _table((f"{result['model']} on {result['machine']}, {result['stack']}",) * 2, rows)
    memory = _memory({name: phase["memory"] for name, phase in phases.items()})
    charts = [*_step(phases["decode"], ("decode", "decode")), *_step(phases["prefill"], ("prefill", "prefill"))]
    return [Section(key="plan", title=("Plan", "方案"), parts=(headline, *charts, memory)), _trust(result)]


def compare(result: Result) -> list[Section]:
    """Machines side by side; the first that has a plan in full."""
    fit = {name: each for name, each in result.items() if "reason" not in each}
    rows: tuple[tuple[str | Words, ...], ...] = tuple(
        (words, *(cell(each.get(key), unit) if "reason" not in each else "–" for each in result.values()))
        for key, words, unit in HEADLINE
    )
    table = Table(title=("machines", "机器"), columns=(FIGURE, *((name, name) for name in result)), rows=rows)
    charts = [
        bars(words, {name: each.get(key) or 0.0 for name, each in fit.items()}, unit)
        for key, words, unit in HEADLINE
        if any(each.get(key) for each in fit.values())
    ]
    found = [Section(key="machines", title=("Machines", "机器对比"), parts=(table, *charts))]
    refused = tuple(f"{name}: {each['reason']}" for name, each in result.items() if "reason" in each)
    if refused:
        found += [Section(key="no", title=("No plan", "无方案"), parts=(Lines(title=("why", "原因"), lines=refused),))]
    for index, (name, each) in enumerate(fit.items()):
        plan, trust = infer(each)
        found.append(Section(key=f"plan{index}", title=(name, name), parts=(*plan.parts, *trust.parts)))
    return found


def _plan_text(choice: Result) -> str:
    def degrees(plan: Result) -> str:
        named = (("TP", "tp"), ("DP", "dp"), ("PP", "pp"), ("EP", "ep"), ("MTP", "draft_tokens"))
        return " ".join(f"{short}{plan[key]}" for short, key in named if plan.get(key, 0) > (key != "draft_tokens"))

    return "; ".join(
        f"{pool['instances']} x {degrees(pool['plan']) or 'TP1'}, batch {pool['sequences']:g}"
        for pool in choice["pools"]
    )


def search(result: Sequence[Result]) -> list[Section]:
    """The front of each machine and its best plans."""
    found = []
    points = [
        {
            "name": each["machine"],
            "data": [
                [1.0 / one["tpot_s"], one["output_tokens_per_s_per_chip"], _plan_text(one)] for one in each["front"]
            ],
        }
        for each in result
        if each.get("front")
    ]
    if points:
        front = Chart(
            title=("speed of a user against throughput of a chip", "单用户速度与单卡吞吐"), kind="points",
            series=tuple(points), x=("tokens/s of one user", "单用户 tokens/s"),
            y=("output tokens/s per chip", "每卡输出 tokens/s"),
        )  # fmt: skip
        found.append(Section(key="front", title=("Front", "Pareto 前沿"), parts=(front,)))
    for index, each in enumerate(result):
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
        parts: list[Table | Lines] = (
            [Table(title=("best plans", "最优方案"), columns=columns, rows=rows)] if rows else []
        )
        chosen = each.get("chosen") or {}
        if chosen.get("why"):
            parts.append(
                Lines(title=("why this one", "为何选它"), lines=(str(chosen["why"]), *map(str, chosen["passed"])))
            )
        if each.get("nearest"):
            parts.append(Lines(title=("what came closest", "最接近的方案"), lines=tuple(map(str, each["nearest"]))))
        found.append(
            Section(
                key=f"best{index}",
                title=(each["machine"],) * 2,
                parts=(*parts, *_trust(chosen.get("choice") or {}).parts[:1]),
            )
        )
    return found


def _verdict(replayed: Result | None) -> str:
    if replayed is None:
        return "–"
    rate = cell(replayed["output_tokens_per_s_per_chip"])
    return f"{rate}, {'keeps its limits' if replayed['keeps'] else 'does not keep its limits'}"


def train(result: Result) -> list[Section]:
    """A training step."""
    made = result["prediction"]
    if "reason" in made:
        return _infeasible(made)
    step = made["step"]
    rows = [
        ("step", cell(step["seconds"], "s")),
        ("tokens/s", cell(step["tokens_per_s"])),
        ("tokens/s per chip", cell(made["tokens_per_s_per_chip"])),
        ("MFU", cell(made["mfu_ratio"], "ratio")),
        ("chips", cell(made["chips"])),
        ("parameters", cell(step["parameters"])),
    ]
    parts = (
        _table((f"{made['model']} on {made['machine']}, {made['stack']}",) * 2, rows),
        bars(("from the peak down: share of a step", "从峰值到实际：单步占比"), made["waterfall"], "ratio"),
        bars(("where the time goes", "时间构成"), step["spent"], "s"),
        _memory({"fullest rank": step["memory"]}),
    )
    return [Section(key="training", title=("Training", "训练"), parts=parts), _trust(made)]


def replay(result: Result) -> list[Section]:
    """Traffic, every request, and what it rests on."""
    made = [Section(key="traffic", title=("Traffic", "流量"), parts=traffic(result))]
    if told := spans(result):
        made.append(Section(key="requests", title=("Requests", "请求"), parts=told))
    return [*made, _trust(result)]


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
    table = Table(
        title=(f"{result['model']} on {result['machine']}",) * 2,
        columns=(FIGURE, ("measured", "实测"), ("predicted", "预测"), ("error", "误差")), rows=rows,
    )  # fmt: skip
    left = {cause["change"]: cause["gap_ratio"] for cause in result["causes"]}
    parts: tuple[Table | Chart | Lines, ...] = (table,)
    if left:
        parts += (bars(("share of the gap that is left with a change", "各改动后剩余的误差"), left, "ratio"),)
    parts += (Lines(title=("notes", "说明"), lines=tuple(result["notes"])),)
    return [Section(key="check", title=("Check", "核对"), parts=parts), _trust(result)]


VIEWS: Mapping[str, Callable[[Any], list[Section]]] = {
    "infer": infer, "search": search, "compare": compare, "train": train, "replay": replay, "check": check,
    "centre": centre,
}  # fmt: skip
KEYS: Mapping[str, set[str]] = {
    "check": {"figures", "causes", "model"},
    "replay": {"summary", "pools", "router"},
    "train": {"infeasible", "prediction"},
    "search": {"machine", "best", "front"},
    "centre": {"chip_hour", "tornado"},
    "infer": {"infeasible", "model", "machine"},
}
"""Keys by which a stored result is known."""
