"""The page of claims, in both languages, out of a run of every claim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from math import log10

from taicang.app.ask_cmd import words
from taicang.app.audit_cmd import Asker
from taicang.app.render_audit import SAID, answered, counted, number, verdict_word
from taicang.audit.claims import OTHERWISE, built_in
from taicang.audit.verdict import Finding, judge
from taicang.catalog import sources

HEAD = {
    "en": (
        "Claims",
        "What a commentary of July 2025 said of CloudMatrix384, sentence by sentence, and what holds. No verdict is "
        "written down: a rule turns figures of runs, their error bands and the evidence into it, and `taicang audit "
        "CLAIM --explain` repeats each. In brackets: how far a figure may be off, nine times in ten on measurements of "
        "its kind (unvalidated: nobody measured anything near); a star: inside that band the verdict could be another. "
        "Weak evidence alone decides nothing. How a claim is written, and one of your own: "
        "[audit a claim](../how-to/audit.md).",
        "Sources",
        "In full",
    ),
    "zh": (
        "说法核查",
        "2025 年 7 月一篇评论文章对 CloudMatrix384 的逐句说法，以及哪些成立。"
        "结论不是写进去的：规则由运行所得数值、误差带和证据推出结论，"
        "`taicang audit CLAIM --explain --lang zh` 可逐条重算。"
        "括号内是同类实测中十次有九次不超出的误差范围（未验证：附近没有实测）；星号表示误差带内结论可能不同。"
        "仅有弱证据时不作判断。如何编写一条说法：[核查说法](../how-to/audit.md)（英文）。",
        "来源",
        "完整回答",
    ),
}


@cache
def findings() -> tuple[Finding, ...]:
    """Every claim judged, once for all pages."""
    asker = Asker()
    return tuple(judge(claim, asker.of(claim.file)) for claim in built_in())


def make(page: Callable[..., str], table: Callable[[tuple[str, ...], list[tuple[str, ...]]], str], lang: str) -> str:
    """The page in the language."""
    title, intro, cited, _ = HEAD[lang]
    found, said = findings(), SAID[lang]
    rows = [
        (
            f"[`{each.claim.key}`](#{each.claim.key})",
            each.claim.text[lang],
            verdict_word(each.verdict, lang) + ("*" if each.could_be else ""),
            number(each.figures[0], lang) if each.figures else "",
        )
        for each in found
    ]
    return page(
        title,
        intro,
        counted(found, lang) + ("." if lang == "en" else "。"),
        table(("", said["claim"], said["verdict"], said["number"]), rows),
        *(_section(each, lang) for each in found),
        f"## {cited}\n\n" + "\n".join(_sources(found)),
    )


def answers() -> tuple[Finding, ...]:
    """Claims that are answered in full."""
    return tuple(each for each in findings() if each.claim.answer)


def in_full() -> tuple[str, ...]:
    """Names of these claims, which no run is needed for."""
    return tuple(claim.key for claim in built_in() if claim.answer)


def place(key: str, lang: str) -> str:
    """Where the page of a claim stands, under docs."""
    return f"explanation/claims/{key}{'' if lang == 'en' else '.zh'}.md"


def answer(page: Callable[..., str], key: str, lang: str) -> str:
    """The page of one claim."""
    finding = next(each for each in answers() if each.claim.key == key)
    other = {"en": ("zh", "中文"), "zh": ("en", "English")}[lang]
    body = _section(finding, lang, link=False).partition("\n")[2]
    return page(
        finding.claim.text[lang],
        f"[{other[1]}]({key}{'' if other[0] == 'en' else '.zh'}.md)",
        answered(finding, lang),
        f"![{finding.claim.text[lang]}](../../images/claim-{key}.{lang}.svg)",
        body,
    )


def pictures() -> dict[str, str]:
    """The figures of each such claim with their bands, by name of the file."""
    return {f"claim-{each.claim.key}.{lang}.svg": _picture(each, lang) for each in answers() for lang in HEAD}


def _picture(finding: Finding, lang: str) -> str:
    """Bars of the figures that share the first one's unit, on a logarithmic scale, with their bands."""
    first = finding.figures[0]
    shown = [each for each in finding.figures if each.unit == first.unit and each.value and each.low and each.low > 0]
    ends = [log10(value) for each in shown for value in (each.low, each.high, 1.0 if first.unit == "x" else each.low)]
    low, high = min(ends) - 0.05, max(ends) + 0.05
    left, wide, row, top = 20, 820, 40, 30

    def x(value: float) -> float:
        return left + wide * (log10(value) - low) / (high - low)

    body = []
    if first.unit == "x":
        level = top + row * len(shown)
        body.append(f'<line x1="{x(1):.1f}" y1="{top - 10}" x2="{x(1):.1f}" y2="{level}" stroke="#999"/>')
    for at, each in enumerate(shown):
        y = top + row * at
        start, end = sorted((x(each.value), x(1) if first.unit == "x" else left))
        body += [
            f'<rect x="{start:.1f}" y="{y + 8}" width="{max(end - start, 1):.1f}" height="12" fill="#2471a3"/>',
            f'<line x1="{x(each.low):.1f}" y1="{y + 14}" x2="{x(each.high):.1f}" y2="{y + 14}" stroke="#c0392b"/>',
            f'<text x="{left}" y="{y + 3}">{escape(each.name[lang])}: {escape(number(each, lang))}</text>',
        ]
    box = f'viewBox="0 0 {left * 2 + wide} {top + row * len(shown) + 6}" role="img"'
    style = "<style>text{font:13px sans-serif;fill:#2c3e50}</style>"
    white = '<rect width="100%" height="100%" fill="#fff"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {box}>', style, white, *body, "</svg>", ""])


def _section(finding: Finding, lang: str, *, link: bool = True) -> str:
    """One claim."""
    claim, said = finding.claim, SAID[lang]
    colon = ": " if lang == "en" else "："
    verdict = f"**{verdict_word(finding.verdict, lang)}**"
    if finding.could_be:
        verdict += f" ({said['within']} {', '.join(verdict_word(each, lang) for each in finding.could_be)})"
    lines = [f"## {claim.key}", "", f"{claim.text[lang]}{colon}{verdict}", ""]
    if claim.answer and link:
        lines[-1:] = ["", f"[{HEAD[lang][3]}](../{place(claim.key, lang)})", ""]
    if claim.misquoted:
        lines.append(f"* **{said['misquoted']}**{colon}{claim.misquoted[lang]}")
    if claim.quantity:
        lines.append(f"* {said['quantity']}{colon}{claim.quantity[lang]}")
    lines += [f"* {each.name[lang]}{colon}**{number(each, lang)}**" for each in finding.figures]
    for key in ("true_if", "outcome"):
        if getattr(claim, key):
            lines.append(f"* {said[key]}{colon}{getattr(claim, key)[lang]}")
    for each in claim.evidence:
        lines.append(
            f"* {said[each.says]} ({said[each.confidence]}, `{each.source}` {each.date}){colon}{each.text[lang]}"
        )
    for name, fact in claim.facts.items():
        note = f"; {fact.note}" if fact.note and lang == "en" else ""
        lines.append(f"* `{name}`{colon}{fact.value:,g} {fact.unit} (`{fact.source}` {fact.date}){note}")
    if claim.runs or claim.figures:
        rule = "; ".join(
            f"{verdict_word(verdict, lang)}{colon}`{said['else'] if text == OTHERWISE else text}`"
            for verdict, text in claim.rule
        )
        lines.append(f"* {said['rule']}{colon}{rule}")
    if claim.runs:
        lines += ["", "```sh", *dict.fromkeys(words(question) for question in claim.runs.values()), "```"]
    return "\n".join(lines)


def _sources(found: Sequence[Finding]) -> list[str]:
    used = {each.source for finding in found for each in finding.claim.evidence}
    used |= {fact.source for finding in found for fact in finding.claim.facts.values()} | {"article"}
    known = sources()
    return [
        f"* `{key}`: {known[key].title}" + (f", <{known[key].url}>" if known[key].url else "") for key in sorted(used)
    ]
