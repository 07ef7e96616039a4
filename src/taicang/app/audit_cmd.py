"""``taicang audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taicang.app.options import command, give


@command("audit")
def audit(
    claim: str | None, explain: bool, lang: str, only: str | None, sets: tuple[str, ...], file: Path | None,
    page: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """What was said of supernodes, and what holds: every claim with its verdict and the number that decides it."""
    from taicang.app.audit_runs import Asker, read_sets
    from taicang.audit.claims import VERDICTS, built_in, named, read_claims
    from taicang.audit.verdict import judge
    from taicang.errors import UnknownName

    if only is not None and only not in VERDICTS:
        raise UnknownName("verdict", only, VERDICTS, where="--verdict")
    claims = built_in() if file is None else read_claims(file)
    chosen = claims if claim is None else (named(claim, claims),)
    asker = Asker(read_sets(sets))
    found = [judge(each, asker.of(each.file)) for each in chosen]
    found = [each for each in found if only in (None, each.verdict)]

    def show() -> None:
        from taicang.app.render_audit import show_claim, show_claims

        if claim is None and not explain:
            show_claims(found, lang)
        else:
            for each in found:
                show_claim(each, lang, full=explain)

    give("audit", [_plain(each) for each in found], show, as_json=as_json, page=page, title="taicang audit")


def _plain(finding: Any) -> dict[str, Any]:
    """A finding for programs: the claim's data without the place of its file, and the commands that repeat its runs."""
    from taicang.app.audit_runs import words
    from taicang.records import plain

    made: dict[str, Any] = plain({key: getattr(finding, key) for key in finding.__slots__})
    made["claim"].pop("file")
    made["commands"] = {name: words(question) for name, question in finding.claim.runs.items()}
    return made
