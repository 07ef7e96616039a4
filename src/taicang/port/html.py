"""The report as one page that needs nothing else."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;width:100%;margin:.6rem 0 1.4rem}td,th{text-align:left;padding:.25rem .6rem;
border-bottom:1px solid #e3e6ea;vertical-align:top}th{font-weight:600}td.n{text-align:right}
code{font:13px ui-monospace,monospace}code,td,th{overflow-wrap:anywhere}
summary{cursor:pointer;font-weight:600;margin:.3rem 0}
.bar{display:flex;height:1.4rem;margin:.6rem 0}.bar i{display:block}
.auto{background:#7fb98a}.edit{background:#e0c25c}.library{background:#7aa6d8}.kernel{background:#d98a5b}
.blocked{background:#c25656}small{color:#5c6570}
"""


def page(report: dict[str, Any], tiers: tuple[str, ...]) -> str:
    """The page of ``report.data``."""
    counted = report["tiers"]["counted"]
    total = sum(counted.values()) or 1
    bar = "".join(
        f'<i class="{tier}" style="width:{100 * counted[tier] / total:.2f}%" title="{tier}: {counted[tier]}"></i>'
        for tier in tiers
    )
    title = f"Porting {escape(report['root'])} to {escape(report['to'])}"
    parts = [
        f"<h1>{title}</h1>",
        _table(["", *tiers], [["findings", *(f"{counted[tier]:,}" for tier in tiers)]]),
        f'<div class="bar">{bar}</div>',
        _table(
            ["files", "lines", "where"],
            [[f"{report['files'][each]:,}", f"{report['lines'][each]:,}", each] for each in report["files"]],
        ),
        "<h2>Estimate</h2>",
        _estimate(report["estimate"]),
        "<h2>Speed</h2>",
        _speed(report["performance"]),
        "<h2>Libraries</h2>",
        _table(
            ["library", "counterpart", "how", "files"],
            [
                [each["name"], each["counterpart"] or "none known", each["kind"], each["files"]]
                for each in report["libraries"]
            ],
        ),
        "<h2>Places</h2>",
        *_places(report["findings"]),
    ]
    if report["errors"]:
        parts += ["<h2>Not read</h2>", _table(["file", "why"], [[e["path"], e["error"]] for e in report["errors"]])]
    parts += [f"<p><small>{escape(note)}</small></p>" for note in report["notes"]]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    head = f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head>'
    return f"{head}<body>{''.join(parts)}</body></html>\n"


def _speed(found: dict[str, Any]) -> str:
    rows = [
        [
            f"{each['kind']}: {', '.join(each['calls'])}",
            sum(each["calls"].values()),
            f"{each['middle_ratio']:.2f} ({each['low_ratio']:.2f} to {each['high_ratio']:.2f})",
        ]
        for each in found["operators"]
    ]
    rows += [[f"the run on {each['machine']}", "", f"{each['step_s']:.4g} s a step"] for each in found["runs"]
             if each["step_s"] is not None]  # fmt: skip
    notes = "".join(f"<p><small>{escape(each)}</small></p>" for each in found["assumptions"])
    title = f"{found['after']} over {found['before']}, chip by chip"
    return _table(["operator", "places", title], rows) + notes


def _estimate(size: dict[str, Any]) -> str:
    rows = [["class", f"{size['class']}: {size['title']}"]]
    for key, name in (("files", "files touched"), ("must_change_lines", "lines that must change")):
        if size[key]:
            low, middle, high = size[key]
            rows.append([name, f"{middle:,.0f} ({low:,.0f} to {high:,.0f})"])
    for each in size["kernels"]:
        band = each["ported_lines"]
        after = f"{band[1]:,.0f} ({band[0]:,.0f} to {band[2]:,.0f})" if band else "not measured"
        rows.append([each["path"], f"{each['language']}: {each['lines']:,} lines become {after}"])
    if size["speed_after"]:
        low, middle, high = size["speed_after"]
        rows.append(["speed after such ports", f"{middle:g} of an unnamed rival's ({low:g} to {high:g})"])
    rows += [["took", each] for each in size["evidence"]]
    return _table(["", size["band"]], rows)


def _places(findings: list[dict[str, Any]]) -> list[str]:
    by_path: dict[str, list[dict[str, Any]]] = {}
    for each in findings:
        if each["scope"] == "counted" and each["tier"] != "auto":
            by_path.setdefault(each["path"], []).append(each)
    made = []
    for path, listed in by_path.items():
        rows = "".join(
            f'<tr><td class="n">{each["line"]}</td><td class="{each["tier"]}">{each["tier"]}</td>'
            f"<td><code>{escape(each['text'])}</code></td><td>{escape(each['why'])}</td></tr>"
            for each in listed
        )
        made.append(
            f"<details><summary><code>{escape(path)}</code> ({len(listed)})</summary><table>{rows}</table></details>"
        )
    return made


def _table(head: list[str], rows: list[list[Any]]) -> str:
    cells = "".join(f"<th>{escape(str(each))}</th>" for each in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(each))}</td>" for each in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"
