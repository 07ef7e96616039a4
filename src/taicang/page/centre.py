"""The views of a centre, from what ``taicang centre --json`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from taicang.page.parts import Chart, Lines, Section, Table, bars, cell, words

Result: TypeAlias = Mapping[str, Any]
ROWS = words("costs")
EQUALS = words("equals")


def centre(result: Result) -> list[Section]:
    """Cost, what it turns on, the day and the year, other machines, and where the figures come from."""
    if "reason" in result:
        lines = Lines(title=("does not fit", "放不下"), lines=(str(result["reason"]),))
        return [Section(key="cost", title=("Cost", "成本"), parts=(lines,))]
    unit = result["currency"]
    named = ((f"figure ({unit})", f"指标（{unit}）"), ("5 %", "5 %"), ("middle", "中位"), ("95 %", "95 %"))
    rows = [(words[0], *_ends(result[key])) for key, words in ROWS if result.get(key)]
    rows += [(f"a million {name} tokens", *_ends(band)) for name, band in result["tokens"].items()]
    cost = (
        Table(title=(result["name"], result["name"]), columns=named, rows=tuple(rows)),
        bars(("an installed chip-hour by part", "每安装卡时构成"), _middles(result["parts"]), ""),
        bars(("by use", "随利用率"), _middles(result["at_use"]), ""),
    )
    made = [Section(key="cost", title=("Cost", "成本"), parts=cost)]
    swings = result["tornado"]
    ends = tuple({"name": name, "data": [each[name] for each in swings]} for name in ("low", "high"))
    names = tuple(result["figures"][each["key"]]["title"] or each["key"] for each in swings)
    title = ("result at each end of a figure", "各参数两端时的结果")
    chart = Chart(title=title, kind="bars", categories=names, series=ends)
    made.append(Section(key="matters", title=("What matters", "敏感性"), parts=(chart,)))
    if result["by_hour"]:
        made.append(Section(key="time", title=("Day and year", "日与年"), parts=_time(result)))
    if result["compared"]:
        made.append(Section(key="machines", title=("Machines", "机器对比"), parts=_machines(result, named)))
    return [*made, _origins(result)]


def _ends(band: Result) -> tuple[str, str, str]:
    return cell(band["low"]), cell(band["mid"]), cell(band["high"])


def _middles(bands: Mapping[str, Result]) -> dict[str, float]:
    return {name: band["mid"] for name, band in bands.items()}


def _time(result: Result) -> tuple[Chart, ...]:
    hours, months = result["by_hour"], result["by_month"]

    def day(key: str, title: tuple[str, str]) -> Chart:
        points = [[row["hour"], row[key]] for row in hours]
        return Chart(title=title, kind="lines", series=({"name": title[0], "data": points},), x=("hour", "时"))

    total = [[row["year"], row["total"]] for row in result["cash"]]
    return (
        day("power_kw", ("power, kW", "功率，kW")),
        day("bill", ("bill of an hour", "每小时电费")),
        bars(("bill by month", "每月电费"), {str(row["month"]): row["bill"] for row in months}, ""),
        bars(
            ("carbon by month, kg", "每月碳排放，kg"),
            {str(row["month"]): row.get("carbon_kg", 0.0) for row in months},
            "",
        ),
        Chart(
            title=("money by year", "逐年累计"),
            kind="lines",
            series=({"name": "total", "data": total},),
            x=("year", "年"),
        ),
    )


def _machines(result: Result, named: tuple[tuple[str, str], ...]) -> tuple[Table | Chart | Lines, ...]:
    rows = result["compared"]
    alike = tuple(f"{row['name']} ~ {', '.join(row['alike'])}" for row in rows if row["alike"])
    return (
        Table(
            title=("a million output tokens", "百万输出 token"),
            columns=named,
            rows=tuple((row["name"], *_ends(row["output_mtoken"])) for row in rows),
        ),
        *(bars(title, {row["name"]: row[key] or 0.0 for row in rows}, "") for key, title in EQUALS),
        Lines(title=("the ranges cannot tell apart", "区间内无法区分"), lines=alike),
    )


def _origins(result: Result) -> Section:
    rows = tuple(
        (
            figure["title"] or key,
            cell(figure["low"]),
            cell(figure["high"]),
            figure["kind"],
            figure["source"],
            figure["note"],
        )
        for key, figure in result["figures"].items()
    )
    columns = (
        ("figure", "参数"),
        ("low", "低"),
        ("high", "高"),
        ("kind", "类别"),
        ("source", "来源"),
        ("note", "说明"),
    )
    parts = (
        Table(title=("figures", "参数"), columns=columns, rows=rows),
        Lines(title=("assumptions", "假设"), lines=tuple(result["assumptions"])),
    )
    return Section(key="trust", title=("Where it comes from", "依据"), parts=parts)
