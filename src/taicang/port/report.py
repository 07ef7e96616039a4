"""A scan and its estimate as plain data, as SARIF and as lines of text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from taicang import reading
from taicang.errors import InvalidInput
from taicang.port.estimate import Band, Estimate
from taicang.port.scan import SCOPES, Scan
from taicang.port.tables import TIERS, Finding, Read, Rule

LEVELS: Final[Mapping[str, str]] = {
    "auto": "none", "edit": "warning", "library": "warning", "kernel": "error", "blocked": "error",
}  # fmt: skip
"""Tier -> level of SARIF; ``none`` is what needs nothing."""
SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"


def data(found: Scan, size: Estimate, ran: frozenset[str] | None = None) -> dict[str, Any]:
    """Everything, for ``--json``. ``ran``: names of operators and kernels that a run says it came to."""
    return {
        "root": found.root,
        "to": found.to,
        "entries": list(found.entries),
        "files": files_by_scope(found),
        "lines": lines_by_scope(found),
        "tiers": {scope: {tier: found.tiers(scope)[tier] for tier in TIERS} for scope in SCOPES},
        "worst": found.worst(),
        "libraries": libraries(found),
        "estimate": _estimate(size),
        "findings": [
            _finding(read, each) | {"scope": found.scope[read.path]} | _confirmed(each.text.rpartition(".")[2], ran)
            for read in found.files.values()
            for each in read.findings
        ],
        "kernels": [
            {"path": read.path, "line": each.line, "name": each.name, "lines": each.lines, "language": each.language}
            | {"scope": found.scope[read.path]}
            | _confirmed(each.name, ran)
            for read in found.files.values()
            for each in read.kernels
        ],
        "errors": [{"path": read.path, "error": read.error} for read in found.files.values() if read.error],
        "notes": list(found.notes),
    }


def _confirmed(name: str, ran: frozenset[str] | None) -> dict[str, bool]:
    """What a run confirms; that a name is not in its record tells nothing, since most findings are no operators."""
    return {"ran": True} if ran is not None and name in ran else {}


def files_by_scope(found: Scan) -> dict[str, int]:
    """Files of each scope."""
    count = Counter(found.scope.values())
    return {scope: count[scope] for scope in SCOPES}


def lines_by_scope(found: Scan) -> dict[str, int]:
    """Lines of each scope."""
    count: Counter[str] = Counter()
    for path, read in found.files.items():
        count[found.scope[path]] += read.lines
    return {scope: count[scope] for scope in SCOPES}


def libraries(found: Scan) -> list[dict[str, Any]]:
    """Libraries that the files which count use: counterpart, how it is taken up, files."""
    used: dict[str, tuple[Rule, set[str]]] = {}
    for read in found.counted():
        for each in read.findings:
            if each.rule.kind:
                used.setdefault(each.rule.name, (each.rule, set()))[1].add(read.path)
    return [
        {"name": name, "kind": rule.kind, "tier": rule.tier, "counterpart": rule.counterpart, "files": len(paths)}
        | {"why": rule.why, "source": rule.source}
        for name, (rule, paths) in sorted(used.items(), key=lambda item: (-TIERS.index(item[1][0].tier), item[0]))
    ]


def _finding(read: Read, each: Finding) -> dict[str, Any]:
    return {
        "path": read.path,
        "line": each.line,
        "column": each.column,
        "tier": each.rule.tier,
        "rule": each.rule.name,
        "text": each.text,
        "why": each.rule.why,
        "counterpart": each.rule.counterpart,
        "source": each.rule.source,
    }


def _estimate(size: Estimate) -> dict[str, Any]:
    def band(one: Band | None) -> list[int] | None:
        return [one.low, one.middle, one.high] if one else None

    return {
        "class": size.features.kind,
        "title": size.title,
        "files": band(size.files),
        "must_change_lines": band(size.must_change),
        "kernels": [
            {"path": each.path, "language": each.language, "kernels": each.kernels, "lines": each.lines}
            | {"ported_lines": band(each.ported), "kept_lines": each.kept_lines}
            for each in size.kernels
        ],
        "kernels_in_libraries": size.taken,
        "speed_after": list(size.speed) if size.speed else None,
        "speed_source": size.speed_source,
        "evidence": list(size.evidence),
        "pairs": size.pairs,
        "band": "half of the measured ports lie within the outer figures",
    }


def sarif(found: Scan, version: str) -> dict[str, Any]:
    """SARIF 2.1.0 of what counts and asks for something; what the shim does by itself is left out."""
    rules: dict[str, int] = {}
    described: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for read in found.counted():
        for each in read.findings:
            if each.rule.tier == "auto":
                continue
            key = f"{each.rule.name}/{each.rule.tier}"
            if key not in rules:
                rules[key] = len(rules)
                described.append(
                    {
                        "id": key,
                        "shortDescription": {"text": each.rule.why},
                        "defaultConfiguration": {"level": LEVELS[each.rule.tier]},
                        "properties": {"tier": each.rule.tier, "source": each.rule.source},
                    }
                )
            results.append(
                {
                    "ruleId": key,
                    "ruleIndex": rules[key],
                    "level": LEVELS[each.rule.tier],
                    "message": {"text": f"{each.text}: {each.rule.why}"},
                    "locations": [_place(read.path, each.line, each.column)],
                }
            )
    broken = [
        {"level": "warning", "message": {"text": f"{read.path}: {read.error}"}, "locations": [_place(read.path, 1, 1)]}
        for read in found.files.values()
        if read.error
    ]
    driver = {"name": "taicang port", "version": version, "rules": described}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "originalUriBaseIds": {"ROOT": {"uri": Path(found.root).resolve().as_uri() + "/"}},
                "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": broken}],
                "results": results,
            }
        ],
    }


def _place(path: str, line: int, column: int) -> dict[str, Any]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": quote(path), "uriBaseId": "ROOT"},
            "region": {"startLine": line, "startColumn": column},
        }
    }


_NAME = re.compile(r"[A-Za-z_]\w*")
_KEYS = frozenset({"name", "operator", "op", "kernel"})


def operators_run(log: Path) -> frozenset[str]:
    """Names of operators and kernels that a record (JSON, or JSON lines) says ran, without what stands before them.

    Raises ``InvalidInput`` where the file is no JSON or names none.
    """
    text = reading.text(log, "--log", most=reading.DOCUMENT)
    try:
        whole = [reading.document(text, str(log))]
    except InvalidInput:
        if not text.lstrip().startswith("{") or "\n" not in text.strip():
            raise
        lines = enumerate(text.splitlines(), start=1)
        whole = [reading.document(line, f"{log}:{number}") for number, line in lines if line.strip()]
    names = frozenset(name for each in whole for name in _names(each))
    if not names:
        raise InvalidInput("names no operator or kernel that ran", where=str(log))
    return names


def _names(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for inner, each in value.items():
            yield from _names(each, inner)
    elif isinstance(value, list):
        for each in value:
            yield from _names(each, key)
    elif isinstance(value, str) and key in _KEYS:
        parts = _NAME.findall(value)
        yield from parts
