"""A result as the sections of a page, with the measurements that lie nearest to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taicang.page.parts import Section


def paged(kind: str, result: Any) -> list[Section]:
    """``result`` is what the command ``kind`` prints with --json."""
    from taicang.page.views import sections

    return sections(kind, _grounded(result))


def _grounded(result: Any) -> Any:
    """``result`` with rows "near" wherever it says which model ran on which machine."""
    if isinstance(result, list):
        return [_grounded(each) for each in result]
    if not isinstance(result, dict):
        return result
    if {"model", "machine", "bands"} <= set(result) or {"model", "machine", "chosen"} <= set(result):
        return result | {"near": _near(result)}
    return {key: _grounded(each) if isinstance(each, dict) else each for key, each in result.items()}


def _near(result: dict[str, Any]) -> list[dict[str, str]]:
    from taicang import catalog
    from taicang.errors import TaicangError
    from taicang.evidence.near import near

    try:
        chip = catalog.machine(result["machine"]).chip.name
    except TaicangError:  # a machine of the user's own
        return []
    return near(str(result["model"]), chip, training="step" in result)
