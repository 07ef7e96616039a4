"""The page of claims, in both languages, out of a run of every claim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from taicang.app.audit_runs import Asker, words
from taicang.app.render_audit import SAID, counted, number, verdict_word
from taicang.audit.claims import OTHERWISE, built_in
from taicang.audit.verdict import Finding, judge
from taicang.catalog import sources

HEAD = {
    "en": (
        "Claims",
        "What a commentary of July 2025 said of CloudMatrix384, sentence by sentence, and what holds. No verdict is "
        "written down: a rule turns figures of runs, their error bands and the evidence into it, and `taicang audit "
        "CLAIM --explain` repeats each. In brackets: how far a figure may be off, nine times in ten on measurements of "
        "its kind; a star: inside that band the verdict could be another. Weak evidence alone decides nothing. How a "
        "claim is written, and one of your own: [audit a claim](../how-to/audit.md).",
        "Sources",
    ),
    "zh": (
        "说法核查",
        "2025 年 7 月一篇评论文章对 CloudMatrix384 的逐句说法，以及哪些成立。"
        "结论不是写进去的：规则由运行所得数值、误差带和证据推出结论，"
        "`taicang audit CLAIM --explain --lang zh` 可逐条重算。"
        "括号内是同类实测中十次有九次不超出的误差范围；星号表示误差带内结论可能不同。"
        "仅有弱证据时不作判断。如何编写一条说法：[核查说法](../how-to/audit.md)（英文）。",
        "来源",
    ),
}


@cache
def findings() -> tuple[Finding, ...]:
    """Every claim judged, once for all pages."""
    asker = Asker()
    return tuple(judge(claim, asker.of(claim.file)) for claim in built_in())


def make(page: Callable[..., str], table: Callable[[tuple[str, ...], list[tuple[str, ...]]], str], lang: str) -> str:
    """The page in the language."""
    title, intro, cited = HEAD[lang]
    found, said = findings(), SAID[lang]
    rows = [
        (
            f"[`{each.claim.key}`](#{each.claim.key})",
            each.claim.text[lang],
            verdict_word(each.verdict, lang) + ("*" if each.could_be else ""),
            number(each.figures[0]) if each.figures else "",
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


def _section(finding: Finding, lang: str) -> str:
    """One claim."""
    claim, said = finding.claim, SAID[lang]
    colon = ": " if lang == "en" else "："
    verdict = f"**{verdict_word(finding.verdict, lang)}**"
    if finding.could_be:
        verdict += f" ({said['within']} {', '.join(verdict_word(each, lang) for each in finding.could_be)})"
    lines = [f"## {claim.key}", "", f"{claim.text[lang]}{colon}{verdict}", ""]
    if claim.misquoted:
        lines.append(f"* **{said['misquoted']}**{colon}{claim.misquoted[lang]}")
    if claim.quantity:
        lines.append(f"* {said['quantity']}{colon}{claim.quantity[lang]}")
    lines += [f"* {each.name[lang]}{colon}**{number(each)}**" for each in finding.figures]
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
