"""A repository that is to move, from what ``taicang port --json`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from taicang.page.parts import Lines, Part, Pick, Section, Table, stacked, table

Result: TypeAlias = Mapping[str, Any]
PLACES = ("line", "行"), ("tier", "类别"), ("text", "代码"), ("why", "原因")
LIBRARIES = ("library", "库"), ("counterpart", "对应库"), ("how", "方式"), ("files", "文件")


def port(result: Result) -> list[Section]:
    """What was found and where, how much there is to do, and what the code then runs at."""
    tiers = result["tiers"]["counted"]
    what = (f"{result['root']} to {result['to']}", f"{result['root']} → {result['to']}")
    scopes = tuple((scope, f"{count:,}", f"{result['lines'][scope]:,}") for scope, count in result["files"].items())
    libraries = tuple(
        (each["name"], each["counterpart"] or "none known", each["kind"], str(each["files"]))
        for each in result["libraries"]
    )
    found: list[Part] = [
        table(what, [(tier, f"{count:,}") for tier, count in tiers.items()]),
        stacked(("findings", "发现"), ["findings"], {tier: [count] for tier, count in tiers.items()}, ""),
        Table(title=("scope", "范围"), columns=(("where", "位置"), ("files", "文件"), ("lines", "行数")), rows=scopes),
        Table(title=("libraries", "依赖库"), columns=LIBRARIES, rows=libraries),
    ]
    errors = tuple(f"{each['path']}: {each['error']}" for each in result["errors"])
    notes = (
        Lines(title=("not read", "未读取"), lines=errors),
        Lines(title=("notes", "说明"), lines=(*result["notes"],)),
    )
    return [
        Section(key="findings", title=("Findings", "发现"), parts=(*found, *_places(result["findings"]))),
        Section(key="estimate", title=("Estimate", "工作量"), parts=_estimate(result["estimate"])),
        Section(key="speed", title=("Speed", "速度"), parts=_speed(result["performance"])),
        Section(
            key="notes", title=("Notes", "说明"), parts=(Lines(title=("not read", "未读取"), lines=errors), *notes)
        ),
    ]


def _places(findings: list[Result]) -> tuple[Part, ...]:
    """The lines that somebody has to look at, file by file."""
    by_path: dict[str, list[tuple[str, ...]]] = {}
    for each in findings:
        if each["scope"] == "counted" and each["tier"] != "auto":
            by_path.setdefault(each["path"], []).append((str(each["line"]), each["tier"], each["text"], each["why"]))
    names = tuple(f"{path} ({len(rows)})" for path, rows in by_path.items())
    tables = tuple((Table(title=(path, path), columns=PLACES, rows=tuple(rows)),) for path, rows in by_path.items())
    return (Pick(title=("places", "位置"), names=names, choices=tables),) if names else ()


def _estimate(size: Result) -> tuple[Part, ...]:
    rows = [("class", f"{size['class']}: {size['title']}")]
    for key, name in (("files", "files touched"), ("must_change_lines", "lines that must change")):
        if size[key]:
            rows.append((name, _span(size[key], ",.0f")))
    for each in size["kernels"]:
        after = _span(each["ported_lines"], ",.0f") if each["ported_lines"] else "not measured"
        rows.append((each["path"], f"{each['language']}: {each['lines']:,} lines become {after}"))
    if size["speed_after"]:
        rows.append(("speed after such ports, of an unnamed rival's", _span(size["speed_after"], "g")))
    rows += [("took", each) for each in size["evidence"]]
    return (table((size["band"], size["band"]), rows),)


def _span(band: tuple[float, float, float], form: str) -> str:
    low, middle, high = (format(each, form) for each in band)
    return f"{middle} ({low} to {high})"


def _speed(found: Result) -> tuple[Part, ...]:
    rows = [
        (
            f"{each['kind']}: {', '.join(each['calls'])} ({sum(each['calls'].values())} places)",
            _span((each["low_ratio"], each["middle_ratio"], each["high_ratio"]), ".2f"),
        )
        for each in found["operators"]
    ]
    rows += [(f"the run on {each['machine']}", f"{each['step_s']:.4g} s a step")
             for each in found["runs"] if each["step_s"] is not None]  # fmt: skip
    title = f"{found['after']} over {found['before']}, chip by chip"
    return table((title, title), rows), Lines(title=("assumptions", "假设"), lines=tuple(found["assumptions"]))
