"""The families of models that can be imported, as ``data/families.yaml`` describes them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from taicang.catalog import files
from taicang.models.families import Families, Family


@cache
def families() -> Families:
    """All families, "is" resolved and the switches that all share added."""
    table = files.read(files.DATA / "families.yaml")
    rows: Mapping[str, Mapping[str, Any]] = table["known"]
    shared: Mapping[str, Any] = table["always"]

    def fields(name: str) -> dict[str, Any]:
        row = dict(rows[name])
        base = fields(row.pop("is")) if "is" in row else {}
        return {**base, **row, "when": {**base.get("when", {}), **row.get("when", {})}}

    def family(name: str) -> Family:
        found = fields(name)
        found["when"] = MappingProxyType({**shared, **found["when"]})
        found |= {key: MappingProxyType(dict(found.get(key, {}))) for key in ("defaults", "wrapped")}
        return Family(**found)

    refused = {name: (str(row[0]), str(row[1])) for name, row in table["refused"].items()}
    return Families(known=MappingProxyType({name: family(name) for name in rows}), refused=MappingProxyType(refused))
