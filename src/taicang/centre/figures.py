"""Figures of a centre as ranges with their provenance: the built-in ones, a site's, a machine's, and the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

from taicang import catalog
from taicang.catalog import files
from taicang.catalog.build import split
from taicang.errors import InvalidInput, UnitError, UnknownName
from taicang.units import Count, parse
from taicang.units import split as number_and_unit

FOLDER = files.DATA / "centre"
MONEY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "price": ("cny", "usd"),
        "rent": ("cny_per_h", "usd_per_h"),
        "tariff": ("cny_per_kwh", "usd_per_kwh"),
        "staff": ("cny", "usd"),
        "maintenance": ("cny", "usd"),
    }
)
"""Figures in money, and the dimensions that they may come in."""
DIMENSIONS: Mapping[str, tuple[str, ...]] = MappingProxyType({**MONEY, "rate": ("cny_per_usd",), "optics": ("s",)})
"""Dimensions by figure; every other figure is a bare number or a percentage."""
BOUNDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "years": (0.5, 30.0), "pue": (1.0, 5.0), "carbon": (0.0, 3.0), "network": (0.0, 5.0), "support": (0.0, 1.0),
        "rate": (0.01, 1000.0),
    }
)  # fmt: skip
"""Least and largest value; a share from 0 to 1 where nothing stands here. Money has no upper bound."""
DOMESTIC = ("huawei",)
"""Makers whose chips a subsidised tariff is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure between ``low`` and ``high`` (the same where it is known), in the base unit of its dimension."""

    key: str
    low: float
    high: float
    dimension: str = ""
    title: str = ""
    source: str = ""
    date: str = ""
    kind: str = ""
    note: str = ""

    @property
    def middle(self) -> float:
        """Between both ends."""
        return (self.low + self.high) / 2.0


def given(key: str, text: Any, where: str = "") -> Figure:
    """A figure that the user states: "0.45 CNY/kWh", "0.40..0.55 CNY/kWh", "20..30 %", 0.3 or a list of two.

    Raises ``InvalidInput`` and ``UnitError``.
    """
    where = where or f"--{key}"
    ends = list(text) if isinstance(text, Sequence) and not isinstance(text, str) else _ends(str(text))
    if not 1 <= len(ends) <= 2:
        raise InvalidInput(f"expected one value or two, got {len(ends)}", where=where)
    read = [_read(key, end, where) for end in ends]
    (low, dimension), (high, other) = read[0], read[-1]
    if dimension != other:
        raise UnitError("both ends need the same unit", where=where)
    if low > high:
        raise InvalidInput(f"the range {text} begins above its end", where=where)
    return Figure(key=key, low=low, high=high, dimension=dimension, source="user", kind="given")


def _ends(text: str) -> list[str]:
    """Both ends of "0.40..0.55 CNY/kWh", each with the unit."""
    low, dots, high = text.partition("..")
    if not dots:
        return [text]
    pair = number_and_unit(high.strip())
    unit = pair[1] if pair and number_and_unit(low.strip()) and not number_and_unit(low.strip())[1] else ""  # type: ignore[index]
    return [f"{low.strip()} {unit}".strip(), high.strip()]


def _read(key: str, value: Any, where: str) -> tuple[float, str]:
    """One end and its dimension."""
    error: InvalidInput | None = None
    for dimension in DIMENSIONS.get(key, ()):
        try:
            found = parse(value, dimension, where=where)
        except UnitError as problem:
            error = error or problem
            continue
        return _bounded(key, found, where), dimension
    if error is not None:
        raise error
    number, unit = (number_and_unit(value, where=where) or (None, "")) if isinstance(value, str) else (value, "")
    if isinstance(number, bool) or not isinstance(number, str | int | float) or unit not in ("", "%"):
        raise InvalidInput(f"expected a number or a percentage, got {value!r}", where=where)
    return _bounded(key, float(number) / (100.0 if unit else 1.0), where), ""


def _bounded(key: str, value: float, where: str) -> float:
    low, high = BOUNDS.get(key, (0.0, 1e30 if key in DIMENSIONS else 1.0))
    if key == "utilisation" and value == 0:
        raise InvalidInput("a centre that is never used has no cost per token", where=where)
    if not low <= value <= high:
        raise InvalidInput(f"{key} must be from {low:g} to {high:g}, got {value:g}", where=where)
    return value


def _entry(key: str, body: Mapping[str, Any], where: str) -> Figure:
    value = body["value"]
    made = given(key, value if isinstance(value, list) else [value], where)
    title, source, date, kind, note = (str(body.get(key, "")) for key in ("title", "source", "date", "kind", "note"))
    return replace(made, title=title, source=source, date=date, kind=kind, note=note)


@cache
def built_in() -> Mapping[str, Figure]:
    """Figures that hold for every centre, by key."""
    return {key: _entry(key, body, f"figures.yaml: {key}") for key, body in files.read(FOLDER / "figures.yaml").items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a centre stands. ``steps``: the tariff of each hour of the day over its mean."""

    name: str
    figures: Mapping[str, Figure]
    steps: tuple[float, ...]
    said: tuple[str, ...]
    """What is assumed of it."""


def site(name: str, *, domestic: bool) -> Site:
    """The site ``name``; ``domestic``: it runs chips that a subsidised tariff is for. ``UnknownName`` suggests."""
    known = files.read(FOLDER / "sites.yaml")
    if name not in known:
        raise UnknownName("site", name, [each for each in known if each != "default"], where="--site")
    own, common = known[name], known["default"]
    made, said = {}, []
    for key in ("tariff", "pue", "carbon"):
        body = own.get(key, common[key])
        if domestic:
            body = own.get(f"{key}_domestic", body)
        if body["value"] == "unknown":
            continue
        if key not in own and name != "default":
            said.append(f"{key} of {name} is not published here: that of {'new centres' if key == 'pue' else 'China'}")
        made[key] = replace(_entry(key, body, f"sites.yaml: {name}.{key}"), title=f"{key} of {name}")
    steps = _steps(own.get("steps", {}))
    if own.get("steps"):
        origin = own["steps_from"]
        said.append(f"hours of the tariff ({origin['source']} {origin['date']}, {origin['kind']}): {origin['note']}")
    return Site(name=name, figures=made, steps=steps, said=tuple(said))


def _steps(written: Mapping[str, Count]) -> tuple[float, ...]:
    hours = [1.0] * 24
    for span, share in written.items():
        first, _, last = span.partition("-")
        hours[int(first) : int(last)] = [float(share)] * (int(last) - int(first))
    mean = sum(hours) / 24.0
    return tuple(each / mean for each in hours)


def of_machine(spec: str, rate: Figure, sets: Sequence[str] = ()) -> dict[str, Figure]:
    """Price (of the whole machine) and rent (of a chip and hour), all readings of its entry being the range.

    What no public source gives is left out. Dollars and yuan come together in yuan at the middle of ``rate``.
    """
    name, count = split(spec)
    found = catalog.entry("machine", name, sets)
    made: dict[str, Figure] = {}
    for key, entries in (("price", {"price.cny": "cny", "price.usd": "usd"}), ("rent", {"chip.rental": "usd_per_h"})):
        figures = [each for each in found.figures if each.key in entries and each.value is not None]
        units = {entries[each.key] for each in figures}
        readings, sources = [], []
        for each in figures:
            scale = rate.middle if len(units) > 1 and entries[each.key] == "usd" else 1.0
            values = [each.value, *(other.value for other in each.conflicts if isinstance(other.value, float))]
            readings += [value * scale * (count if key == "price" else 1) for value in values]
            sources += [f"{each.source} {each.place}", *(f"{other.source}: {other.note}" for other in each.conflicts)]
        if readings:
            made[key] = Figure(
                key=key, low=min(readings), high=max(readings), title=f"{key} of {spec}", kind=figures[0].kind,
                dimension="cny" if len(units) > 1 else units.pop(), source="; ".join(dict.fromkeys(sources)),
            )  # fmt: skip
    return made


RENTED = ("rent", "rate", "availability", "utilisation", "error")
"""Figures that say something of rented chips."""
PARTS = ("optics", "masked")
"""Figures of parts, which no cost is made of."""


def of_case(
    spec: str, vendor: str, *, site_name: str = "default", stated: Mapping[str, Figure] = MappingProxyType({}),
    sets: Sequence[str] = (),
) -> tuple[dict[str, Figure], Site, bool, list[str]]:  # fmt: skip
    """All figures of chips of ``vendor`` in ``spec`` at a site, the site, whether they are rented, and what is assumed.

    What is ``stated`` stands over what is published. Without a price, chips whose rent is known are rented.
    """
    place = site(site_name, domestic=vendor.lower() in DOMESTIC)
    known = {**built_in(), **place.figures, **stated}
    found = {**known, **of_machine(spec, known["rate"], sets), **stated}
    rented = "rent" in stated or ("price" not in found and "rent" in found)
    said = [*place.said]
    if rented and "rent" not in stated:
        said.append(f"no price of {spec} is published: its chips are rented")
    return found, place, rented, said


def kept(figures: Mapping[str, Figure], *, rented: bool) -> dict[str, Figure]:
    """The figures that a cost of bought, or of rented, chips is made of."""
    return {key: each for key, each in figures.items() if (key in RENTED if rented else key not in PARTS)}


def listed_prices(model: str) -> tuple[Mapping[str, str], ...]:
    """What APIs charge for ``model`` per million tokens, as published."""
    return tuple(files.read(FOLDER / "prices.yaml").get(model, ()))
