"""What every result has: its figures as a table, the memory of a rank, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from taicang.page.parts import Chart, Lines, Part, Section, Table, Unit, Words, cell, stacked

Result: TypeAlias = Mapping[str, Any]
MEMORY = {
    "attention_bytes": "attention", "dense_bytes": "feed-forward", "experts_bytes": "experts",
    "shared_bytes": "shared experts", "embedding_bytes": "embedding and head", "draft_bytes": "draft layers",
    "cache_bytes": "KV cache", "activation_bytes": "activations", "exchange_bytes": "exchange buffers",
    "runtime_bytes": "runtime", "withheld_bytes": "withheld", "weights_bytes": "weights",
    "gradients_bytes": "gradients", "optimizer_bytes": "optimizer", "activations_bytes": "activations",
    "working_bytes": "working",
}  # fmt: skip
FIGURE = ("figure", "指标")
VALUE = ("value", "数值")
BANDS: tuple[Words, ...] = (
    FIGURE, VALUE, ("nine in ten lie between", "九成实测落在"), ("band", "误差带"),
    ("half are closer than", "半数误差小于"), ("measurements", "实测数"), ("what they are", "依据"),
)  # fmt: skip
NEAREST: Mapping[str, Words] = {
    "near": ("near", "接近程度"), "run": ("model", "模型"), "on": ("chip", "芯片"), "how": ("how", "设置"),
    "measured": ("measured", "实测"), "source": ("source", "来源"),
}  # fmt: skip
VALUES: Mapping[str, tuple[str, ...]] = {
    "tpot": ("tpot_s", "chosen.choice.tpot_s", "summary.tpot.mean_s"),
    "ttft": ("loaded_ttft_s", "chosen.choice.ttft_s", "summary.ttft.mean_s"),
    "itl": ("summary.itl.mean_s",),
    "e2e": ("summary.e2e.mean_s",),
    "queue": ("summary.queue.mean_s",),
    "throughput": (
        "output_tokens_per_s_per_chip", "chosen.choice.output_tokens_per_s_per_chip", "summary.output_tokens_per_s",
        "tokens_per_s_per_chip",
    ),
    "step_time": ("step.seconds",),
    "mfu": ("mfu_ratio",),
    "power": ("power_w_per_chip", "summary.power_w"),
}  # fmt: skip
UNITS: Mapping[str, Unit] = {
    "tpot": "s", "ttft": "s", "itl": "s", "e2e": "s", "queue": "s", "step_time": "s", "mfu": "ratio", "power": "W",
}  # fmt: skip


def table(title: Words, rows: Sequence[tuple[str | Words, ...]]) -> Table:
    """Figures and their values."""
    return Table(title=title, columns=(FIGURE, VALUE), rows=tuple(rows))


def trust(result: Result) -> Section:
    """Each figure with its band and what that rests on, the nearest measurements, assumptions and sources."""
    known = result.get("bands") or {}
    parts: list[Part] = []
    if isinstance(known, Mapping) and known:
        rows = tuple(_banded(name, band, _value(name, result)) for name, band in known.items())
        parts.append(Table(title=("figures and their error bands", "各项数值与误差带"), columns=BANDS, rows=rows))
    if near := result.get("near"):
        rows = tuple(tuple(str(each[key]) for key in NEAREST) for each in near)
        columns = tuple(NEAREST.values())
        parts.append(Table(title=("the nearest measurements", "最接近的实测"), columns=columns, rows=rows))
    parts += [
        Lines(title=("assumptions", "假设"), lines=tuple(result.get("assumptions") or ())),
        Lines(title=("sources", "来源"), lines=tuple(result.get("sources") or ())),
        Lines(
            title=("made by", "生成"),
            lines=(f"catalogue {str(result.get('digest'))[:12]}, taicang {result.get('version')}",),
        ),
    ]
    return Section(key="trust", title=("Trust", "可信度"), parts=tuple(parts))


def _banded(name: str, band: Result, value: float | None) -> tuple[str | Words, ...]:
    unit: Unit = UNITS.get(name, "")
    low, high = band["low_ratio"], band["high_ratio"]
    ratios = "–" if low is None else f"{low - 1.0:+.0%} … {high - 1.0:+.0%}"
    ends = "–" if low is None or value is None else f"{cell(value * low, unit)} … {cell(value * high, unit)}"
    typical = "–" if band["typical_ratio"] is None else f"{band['typical_ratio']:.0%}"
    return (
        name.replace("_", " ").upper() if len(name) < 5 else name.replace("_", " "),
        "–" if value is None else cell(value, unit), ends, ratios, typical, cell(band["rows"]),
        f"{band['verdict']}: {band['basis']}",
    )  # fmt: skip


def _value(name: str, result: Result) -> float | None:
    """The figure that a band is of, where the result has it."""
    for path in VALUES.get(name, ()):
        found: Any = result
        for key in path.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        if isinstance(found, int | float):
            return float(found)
    return None


def memory(uses: Mapping[str, Result]) -> Chart:
    """Of a rank, a bar for each of ``uses``."""
    parts: dict[str, list[float]] = {}
    for key, name in MEMORY.items():
        if any(key in use for use in uses.values()):
            less = "apart_bytes" if key == "activations_bytes" else ""  # gone before the gradients beside them come
            parts[name] = [float(use.get(key) or 0.0) - float(use.get(less) or 0.0) for use in uses.values()]
    free = [
        max(float(use["capacity_bytes"]) - sum(part[i] for part in parts.values()), 0.0)
        for i, use in enumerate(uses.values())
    ]
    return stacked(("memory of a rank", "单卡（die）显存"), list(uses), parts | {"free": free}, "B")
