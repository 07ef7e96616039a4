"""Models by name (built in) or by path (a Hugging Face config.json, or a file in the schema of the built-in ones)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from taicang import reading
from taicang.catalog import files
from taicang.errors import InvalidInput, NotModelled, UnknownName
from taicang.formats import number_format
from taicang.models.families import Families, Family
from taicang.models.types import (
    Block,
    Compressed,
    Dense,
    Experts,
    GatedLinear,
    GroupedQuery,
    Indexer,
    Latent,
    Model,
    ShortConv,
    StateSpace,
)

FOLDER = Path(__file__).parent / "data" / "models"
_ATTENTION: Mapping[str, type] = {
    "grouped": GroupedQuery,
    "latent": Latent,
    "gated_linear": GatedLinear,
    "state_space": StateSpace,
    "short_conv": ShortConv,
    "compressed": Compressed,
}
_FFN: Mapping[str, type] = {"dense": Dense, "experts": Experts}
T = TypeVar("T")


def model(name_or_path: str, *, approximate: bool = False) -> Model:
    """The model called ``name_or_path``: a built-in name, a Hugging Face id that stands for one, or a file or folder.

    ``approximate`` takes the nearest modelled kind for features that would be refused and records it in
    ``Model.assumptions``. Raises ``UnknownName``, ``NotModelled`` (naming the feature) or ``InvalidInput`` (naming the
    file and key).
    """
    path = Path(name_or_path).expanduser()
    if path.suffix in (".json", ".yaml", ".yml") or name_or_path.startswith((".", "/", "~")):
        return read_model(path, approximate=approximate)
    found = canonical(name_or_path)
    if found is None:
        if name_or_path and os.path.isdir(path):
            return read_model(path, approximate=approximate)
        raise UnknownName("model", name_or_path, model_names())
    name, dtype = found
    if (refusal := names()["not_modelled"].get(name)) is not None:
        raise NotModelled(f"{name}: {refusal}")
    built_in = _builtin(name)
    if dtype is None:
        return built_in
    left = "bf16" if dtype == "mxfp4_w4a16" else ""  # which quantises experts alone
    return replace(built_in, dtype=dtype, attention_dtype=left, dense_dtype=left, experts_dtype="")


def model_names() -> tuple[str, ...]:
    """Names of all built-in models, sorted. ``not_modelled`` names those that are known but refused."""
    return tuple(sorted(_builtin_names()))


def not_modelled() -> Mapping[str, str]:
    """Names of models that are refused, with the feature that is missing."""
    return dict(names()["not_modelled"])


def read_model(path: Path, *, approximate: bool = False) -> Model:
    """The model of a config.json (or of a folder that holds one) or of a YAML file in our own schema."""
    file = path / "config.json" if os.path.isdir(path) else path
    text = reading.text(file)
    if file.suffix in (".yaml", ".yml"):
        return _from_yaml(text, file)
    config = reading.document(text, str(file))
    name = (path.name if os.path.isdir(path) else path.parent.name if path.stem == "config" else path.stem).lower()
    try:
        return of_config(config, name, approximate=approximate, where=str(file))
    except InvalidInput as error:
        key = error.where.removeprefix(f"{file}: ")
        before = re.split(rf'"{re.escape(key)}"\s*:', text, maxsplit=1)
        if len(before) == 1:
            raise
        at = f"{file}:{before[0].count(chr(10)) + 1}: {key}"
        raise InvalidInput(str(error).removeprefix(f"{error.where}: "), where=at) from None


def of_config(config: Mapping[str, Any], name: str, *, approximate: bool = False, where: str = "") -> Model:
    """The model that a parsed config.json describes; see ``models.huggingface.from_config``."""
    from taicang.models.huggingface import from_config  # noqa: PLC0415 - built-in models need none of it

    return from_config(config, name, families=families(), approximate=approximate, where=where)


@cache
def names() -> Mapping[str, Mapping[str, Any]]:
    """The table of aliases and of refused models."""
    path = FOLDER / "names.yaml"
    return files.read(path)


@cache
def _builtin_names() -> frozenset[str]:
    return frozenset(p.stem for p in FOLDER.glob("*.yaml") if p.stem != "names") | set(names()["not_modelled"])


@cache
def _builtin(name: str) -> Model:
    path = FOLDER / f"{name}.yaml"
    return _from_yaml(path.read_text(encoding="utf-8"), path)


def _from_yaml(text: str, path: Path) -> Model:
    """A model in our own schema: the fields of ``Model`` with blocks of a tagged ``attention`` and ``ffn``."""
    data = _mapping(files.load(text, str(path), trusted=path.is_relative_to(FOLDER)), str(path))
    where = str(path)
    rows = data.get("blocks")
    if not isinstance(rows, list) or not rows:
        raise InvalidInput("expected a list of blocks", where=f"{where}: blocks")
    made = []
    for i, row in enumerate(rows):
        at = f"{where}: blocks[{i}]"
        block = _mapping(row, at)
        attention = _tagged(block.get("attention"), _ATTENTION, f"{at}.attention")
        ffn = _tagged(block.get("ffn"), _FFN, f"{at}.ffn")
        plain = tuple(block.get("plain") or ())
        made.append(_build(Block, block | {"attention": attention, "ffn": ffn, "plain": plain}, at))
    assumptions = tuple(data.get("assumptions") or ())
    built = _build(Model, {"name": path.stem} | data | {"blocks": tuple(made), "assumptions": assumptions}, where)
    for form in (*built.formats.values(), built.kv_dtype or "bf16"):
        number_format(form)
    return built


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"expected a mapping, got {value!r}", where=where)
    return value


def _tagged(value: Any, kinds: Mapping[str, type], where: str) -> Any:
    data = dict(_mapping(value, where))
    kind = data.pop("kind", None)
    if kind not in kinds:
        raise UnknownName("kind", str(kind), kinds, where=where)
    if data.get("indexer") is not None:
        data["indexer"] = _build(Indexer, _mapping(data["indexer"], f"{where}.indexer"), f"{where}.indexer")
    return _build(kinds[kind], data, where)


def _build(kind: type[T], data: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass ``kind``; unknown, missing and mistyped keys are refused by name."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key, value in data.items():
        if key not in known:
            raise UnknownName("key", str(key), known, where=where)
        stated = str(known[key].type)
        fits = {
            "int": isinstance(value, int) and not isinstance(value, bool) and value >= 0,
            "int | None": value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0),
            "bool": isinstance(value, bool),
            "str": isinstance(value, str),
        }.get(stated, True)
        if not fits:
            raise InvalidInput(f"expected {stated}, got {value!r}", where=f"{where}: {key}")
    for name, field in known.items():
        if name not in data and field.default is MISSING:
            raise InvalidInput("this key is missing", where=f"{where}: {name}")
    return kind(**data)


def canonical(text: str) -> tuple[str, str | None] | None:
    """Name in the catalogue and the number format that ``text`` asks for (None: as published), or None.

    Case does not matter; an owner before a slash, a remark in parentheses and what may end a name are taken off, one
    at a time, until a name or an alias is reached. An alias may end in "@format".
    """
    rules, known, aliases = names(), _builtin_names(), names()["aliases"]
    formats, variant = rules["formats"], re.compile(f"-({'|'.join(rules['variants'])})$")
    name = re.sub(r"\s*\([^)]*\)$", "", text.strip().lower())
    owner, slash, rest = name.partition("/")
    if slash and name in aliases:
        return aliases[name], None
    if slash:
        if owner not in rules["owners"]:
            return None
        name = rest
    else:
        owner = ""
    name = re.sub(r"[\s_]+", "-", name)
    dtype: str | None = None
    while name not in aliases and name not in known:
        suffix = next((s for s in formats if name.endswith(f"-{s}")), None)
        if suffix is not None and dtype is None:
            name, dtype = name.removesuffix(f"-{suffix}"), formats[suffix]
        elif name.endswith("-fp8") and dtype is None:
            name = name.removesuffix("-fp8")
            dtype = "fp8_block" if owner != "nvidia" and name.startswith(tuple(rules["block_fp8"])) else "fp8"
        elif variant.search(name):
            name = variant.sub("", name)
        else:
            return None
    target, _, asked = aliases.get(name, name).partition("@")
    return target, dtype or asked or None


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


def weights_of(spec: str, model: Model) -> str | None:
    """Where an engine finds the weights of the model that ``spec`` names: a Hugging Face id or a folder.

    An id that the user wrote stays as it is, for it may name a release of its own; of a folder the path is given; a
    built-in model has the id of its publisher. ``None`` where there is none.
    """
    text = spec.strip().partition(" (")[0]
    path = Path(text).expanduser()
    if os.path.isdir(path) and os.path.isfile(path / "config.json"):
        return str(path.resolve())
    local = text.startswith((".", "/", "~")) or path.suffix in (".json", ".yaml", ".yml")
    if not local and text.count("/") == 1:
        return text
    published: str | None = None if local else names()["weights"].get(model.name)
    return published
