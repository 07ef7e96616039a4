"""Pages of results that are figures and rows: their names say the units, so one writer makes them all.

A mapping becomes a table of its figures, a list of mappings a table of its rows, a list of texts a list; some commands
put a picture of their own before that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taicang.page.parts import FIGURE, VALUE, Chart, Lines, Part, Section, Table, Unit, Words, bars, cell

MOST = 1000
"""Rows of a table; a line says how many more there are."""
SHARES = ("coverage", "mape", "median_ape", "bias")
"""Figures that are shares without saying so in their names."""
UNITS: Mapping[str, Unit] = {"_s": "s", "_bytes": "B", "_ratio": "ratio"}


def _unit(name: str) -> Unit:
    return "ratio" if name in SHARES else next(
        (unit for end, unit in UNITS.items() if name.endswith(end) and not name.endswith("per_s")), ""
    )  # fmt: skip


def _cell(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float | str) or value is None:
        return cell(value, _unit(name))
    values = value.items() if isinstance(value, Mapping) else enumerate(value)
    return ", ".join(f"{key} {each}" if isinstance(value, Mapping) else str(each) for key, each in values)


def _said(name: str) -> Words:
    text = name.replace("_", " ")
    return text, text


def parts(name: str, value: Any) -> list[Part]:
    """Tables and lists of ``value``, which is called ``name``."""
    if isinstance(value, Mapping):
        plain = {key: each for key, each in value.items() if not isinstance(each, list | Mapping)}
        rows = tuple((_said(key), _cell(key, each)) for key, each in plain.items())
        made: list[Part] = [Table(title=_said(name), columns=(FIGURE, VALUE), rows=rows)] if rows else []
        for key, each in value.items():
            if key not in plain and each:
                made += parts(key, each)
        return made
    if value and all(isinstance(each, Mapping) for each in value):
        names = list(dict.fromkeys(key for each in value for key in each))
        cells = tuple(tuple(_cell(key, each.get(key)) for key in names) for each in value[:MOST])
        more: list[Part] = []
        if len(value) > MOST:
            more.append(Lines(title=_said(name), lines=(f"and {len(value) - MOST:,} more rows: --json has them all",)))
        return [Table(title=_said(name), columns=tuple(map(_said, names)), rows=cells), *more]
    return [Lines(title=_said(name), lines=tuple(_cell(name, each) for each in value))]


def listed(key: str, title: Words, result: Any, first: Sequence[Part] = ()) -> list[Section]:
    """A section of all that ``result`` says, after the parts that come ``first``."""
    return [Section(key=key, title=title, parts=(*first, *parts(title[0].lower(), result)))]


def score(result: Mapping[str, Any]) -> list[Section]:
    """Mean errors of suites, then all of them and their rows."""
    errors = {f"{each['subset']} {each['metric']}, {each['split']}": each["mape"] or 0.0 for each in result["suites"]}
    chart = bars(("mean error of the predictions", "预测的平均误差"), errors, "ratio")
    return listed("score", ("Score", "评分"), result, (chart,))


def runs(result: Mapping[str, Any]) -> list[Section]:
    """A program of PyTorch on devices that are not there, or on several machines."""
    made = result["runs"] if "runs" in result else [result["run"]]
    steps = {each["machine"]: each["step_s"] or 0.0 for each in made}
    top = {each["machine"]: max(rank["memory"]["reserved_bytes"] for rank in each["ranks"]) for each in made}
    first: list[Part] = [
        bars(("a step", "单步时间"), steps, "s"),
        bars(("memory of the fullest rank", "显存最多的卡"), top, "B"),
    ]
    found = listed("runs", ("Run", "运行"), [{k: v for k, v in each.items() if k != "ranks"} for each in made], first)
    for each in made:
        worst = max(each["ranks"], key=lambda rank: rank["step_s"])
        spent: dict[str, float] = {}
        for line in worst["lines"]:
            spent[line["name"]] = spent.get(line["name"], 0.0) + line["seconds"]
        top12 = dict(sorted(spent.items(), key=lambda item: -item[1])[:12])
        chart = bars(("operators of the slowest rank", "最慢的卡上的算子"), top12, "s")
        found.append(Section(key=f"run-{each['machine']}", title=(each["machine"],) * 2, parts=(chart,)))
    return found


def trace(result: Mapping[str, Any]) -> list[Section]:
    """A request trace: when its requests come, and how long they are."""
    lengths = {key: float(each) for key, each in result.items() if key.startswith(("input_", "output_"))}
    first: list[Part] = [bars(("lengths in tokens", "长度（tokens）"), lengths, "")]
    if arrivals := result.get("arrivals"):
        series = ({"name": "requests/s", "data": arrivals},)
        first.insert(0, Chart(title=("arrivals", "到达"), kind="lines", series=series, x=("seconds", "秒"),
                              y=("requests/s", "请求/s"), wide=True))  # fmt: skip
    return listed("trace", ("Trace", "请求轨迹"), {k: v for k, v in result.items() if k != "arrivals"}, first)


def calibrate(result: Mapping[str, Any]) -> list[Section]:
    """A profile of one's own: its errors before and after, and its constants."""
    kernels = {f"{each['family']} {each['key']}": each for each in result.get("kernels", ())}
    was = result.get("before") or {name: each["before_ratio"] for name, each in kernels.items()}
    now = result.get("after") or {name: each["after_ratio"] for name, each in kernels.items()}
    charts = [bars(("mean error before", "校准前平均误差"), was, "ratio"),
              bars(("mean error of rows left out of the fit", "留出数据上的平均误差"), now, "ratio")]  # fmt: skip
    return listed("calibrate", ("Calibration", "校准"), result, charts)


def query(result: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Rows of a study: against its first column, where that is a number, or a bar for each."""
    first: list[Part] = []
    names = list(result[0]) if result else []
    numbers = [name for name in names if all(isinstance(each[name], int | float) for each in result)]
    if names[:1] == numbers[:1]:
        for name in numbers[1:]:
            data = sorted([each[names[0]], each[name]] for each in result)
            first.append(Chart(title=_said(name), kind="points", series=({"name": name, "data": data},),
                               x=_said(names[0]), y=_said(name)))  # fmt: skip
    else:
        first = [bars(_said(name), {str(each[names[0]]): each[name] for each in result}, _unit(name))
                 for name in numbers]  # fmt: skip
    return listed("query", ("Study", "参数研究"), result, first)
