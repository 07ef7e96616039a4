"""The plans of a search: the front, the best of each machine, and each of them by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from taicang.page.parts import Chart, Lines, Part, Pick, Section, Table, Words, bars, cell
from taicang.page.trust import memory, table, trust

Result: TypeAlias = Mapping[str, Any]


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
        if each.get("front"):
            series.append({"name": each["machine"], "data": [_point(one, _plan_text(one)) for one in each["front"]]})
        if known:
            points = [_point(choice, name) for (_, choice), name in zip(known, mine, strict=True)]
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
