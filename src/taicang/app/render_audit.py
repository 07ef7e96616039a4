"""Verdicts on claims, on the terminal; the words of both languages are here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from taicang.app import terminal
from taicang.app.ask_cmd import words
from taicang.app.options import written
from taicang.audit.claims import NAMED, OTHERWISE
from taicang.audit.verdict import Finding, Result
from taicang.catalog import sources
from taicang.page.audit import SAYS, STAR, VERDICTS

SAID: Mapping[str, Mapping[str, str]] = {
    "en": {**written("audit")["words"]["en"], "star": STAR[0]},
    "zh": {**SAYS, **written("audit")["words"]["zh"], "star": STAR[1]},
}
UNVALIDATED: Mapping[str, str] = {"en": "unvalidated", "zh": "未验证"}
STYLES: Mapping[str, str] = {"supported": "green", "contradicted": "red", "partly": "yellow"}


def verdict_word(verdict: str, lang: str) -> str:
    """A verdict in the language."""
    return verdict if lang == "en" else VERDICTS.get(verdict, verdict)


def number(result: Result, lang: str = "en", *, band: bool = True) -> str:
    """A figure with its unit, and its band where it has one."""
    if result.value is None or result.low is None or result.high is None:
        return "-"
    unit = "" if result.unit in ("", "x", "%") else f" {result.unit}"
    tail = {"x": "x", "%": " %"}.get(result.unit, "")

    def text(value: float) -> str:
        value = value * (100.0 if result.unit == "%" else 1.0)
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

    said = f"{text(result.value)}{tail}"
    if band and text(result.low) != text(result.high):
        said += f" ({text(result.low)} to {text(result.high)})"
    return said + unit + (f" ({UNVALIDATED[lang]})" if band and result.unvalidated else "")


def answered(finding: Finding, lang: str) -> str:
    """The answer in full, with the numbers of its figures."""
    results = {each.key: each for each in finding.figures}
    parts = finding.claim.answer.get(lang, "").strip().split("\n\n")
    text = "\n\n".join((" " if lang == "en" else "").join(part.splitlines()) for part in parts)
    return NAMED.sub(lambda match: number(results[match[1]], band=False), text)


def counted(found: Sequence[Finding], lang: str) -> str:
    """How many claims got which verdict."""
    counts = Counter(each.verdict for each in found)
    sep = ", " if lang == "en" else "，"
    return sep.join(f"{verdict_word(name, lang)} {count}" for name, count in counts.most_common())


def show_claims(found: Sequence[Finding], lang: str) -> None:
    """One row per claim."""
    said = SAID[lang]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column(said["verdict"], no_wrap=True)
    table.add_column(said["number"], overflow="fold", min_width=12)
    table.add_column(said["claim"], overflow="fold")
    for each in found:
        star = "*" if each.could_be else ""
        first = number(each.figures[0], band=False) if each.figures else ""
        table.add_row(
            each.claim.key,
            f"{verdict_word(each.verdict, lang)}{star}",
            escape(first),
            escape(each.claim.text[lang]),
            style=STYLES.get(each.verdict, ""),
        )
    console = terminal.console(highlight=False)
    console.print(table)
    console.print(f"\n{counted(found, lang)}\n{said['star']}")


def show_claim(finding: Finding, lang: str, *, full: bool) -> None:
    """One claim: verdict, figures with bands, condition; with ``full`` also how it came about."""
    console = terminal.console(highlight=False)
    for line in lines(finding, lang, full=full):
        console.print(escape(line), soft_wrap=False)


def lines(finding: Finding, lang: str, *, full: bool) -> list[str]:
    """What there is to say of a claim, line by line."""
    said, claim = SAID[lang], finding.claim
    colon = ": " if lang == "en" else "："
    told = [f"{claim.key}{colon}{claim.text[lang]}", f"  {said['verdict']}{colon}{verdict_word(finding.verdict, lang)}"]
    if finding.could_be:
        told[-1] += f" ({said['within']} {', '.join(verdict_word(each, lang) for each in finding.could_be)})"
    if claim.misquoted:
        told.append(f"  {said['misquoted']}{colon}{claim.misquoted[lang]}")
    told += [f"  {result.name.get(lang, result.key)}{colon}{number(result, lang)}" for result in finding.figures]
    for key in ("true_if", "outcome"):
        text: Mapping[str, str] = getattr(claim, key)
        if text:
            told.append(f"  {said[key]}{colon}{text[lang]}")
    if not full:
        return [*told, ""]
    answer = answered(finding, lang)
    return [*told, *(["", *answer.splitlines(), ""] if answer else []), *_how(finding, lang), ""]


def _how(finding: Finding, lang: str) -> list[str]:
    """Who said it, what decides it, the runs, the rule and the evidence."""
    said, claim = SAID[lang], finding.claim
    origin = sources()[claim.said["source"]]
    place = " ".join(filter(None, (claim.said.get("date"), claim.said.get("place"))))
    told = [f"  {said['said']}: {origin.title} {place}".rstrip()]
    if claim.quantity:
        told.append(f"  {said['quantity']}: {claim.quantity[lang]}")
    for name, question in claim.runs.items():
        why = f"  -> {said['none']}: {finding.infeasible[name]}" if name in finding.infeasible else ""
        told.append(f"  {said['runs']} {name}: {words(question)}{why}")
    for name, fact in claim.facts.items():
        note = f"; {fact.note}" if fact.note else ""
        told.append(f"  {said['facts']} {name}: {fact.value:g} {fact.unit} [{fact.source} {fact.date}]{note}")
    told.append(f"  {said['rule']} ({said['first']}):")
    for verdict, text in claim.rule:
        mark = ">" if text == finding.deciding else " "
        told.append(f"    {mark} {verdict_word(verdict, lang)}: {said['else'] if text == OTHERWISE else text}")
    for each in claim.evidence:
        kind = f"{said[each.says]}, {said[each.confidence]}"
        told.append(f"  {said['evidence']} [{each.source} {each.date}] ({kind}): {each.text.get(lang, '')}")
    return told
