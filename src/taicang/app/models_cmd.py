"""``taicang models``: the built-in models and imports, as blocks, parameters, cache and arithmetic."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import click

from taicang.app import terminal
from taicang.app.options import HELP, command


@command("models", click.Group, context_settings=HELP)
def models() -> None:
    """Built-in models and config.json imports."""


@command("models.list", partial(models.command, "list"))
def list_models(as_json: bool) -> None:
    """Names of all built-in models; those that are known but refused come with the reason."""
    from taicang.catalog.models import model, model_names, not_modelled
    from taicang.models.count import kv_bytes_per_token, parameters

    refused = not_modelled()
    rows: list[dict[str, Any]] = []
    for name in model_names():
        if name in refused:
            continue
        loaded = model(name)
        counted = parameters(loaded)
        rows.append(
            {
                "name": name,
                "parameters": counted.total,
                "active": counted.active,
                "layers": loaded.layers,
                "dtype": loaded.dtype,
                "kv_bytes_per_token": kv_bytes_per_token(loaded),
                "max_context": loaded.max_context,
            }
        )
    if as_json:
        click.echo(json.dumps({"models": rows, "not_modelled": dict(refused)}, indent=2))
        return
    from rich.table import Table

    table = Table(box=None)
    for title in ("model", "size", "active", "weights", "KV KB/tok"):
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            _billions(row["parameters"]),
            _billions(row["active"]),
            row["dtype"],
            f"{row['kv_bytes_per_token'] / 1e3:,.1f}",
        )
    console = terminal.console()
    console.print(table)
    console.print("\nKnown, but not modelled:")
    for name, reason in refused.items():
        console.print(f"  {name}: {reason}")


@command("models.show", models.command)
def show(name: str, context: int, kv: str | None, approximate: bool, as_json: bool) -> None:
    """Blocks, parameters by class, cache and FLOPs of NAME: a model's name, a Hugging Face id, or a file or folder."""
    from taicang.catalog.models import model
    from taicang.models.count import (
        decode_flop,
        kv_bytes_per_token,
        kv_cache_bytes,
        parameters,
        prefill_flop,
    )
    from taicang.records import plain

    loaded = model(name, approximate=approximate)
    kv = kv or loaded.kv_dtype or "bf16"
    counted = parameters(loaded)
    facts = {
        "parameters": {"total": counted.total, "active": counted.active} | plain(counted),
        "context": context,
        "kv_dtype": kv,
        "kv_bytes_per_token": kv_bytes_per_token(loaded, kv),
        "kv_cache_bytes": float(kv_cache_bytes(loaded, context, kv)),
        "decode_flop_per_token": float(decode_flop(loaded, context)),
        "prefill_flop_per_token": float(prefill_flop(loaded, context)) / context,
    }
    if as_json:
        click.echo(json.dumps({"model": _tagged(loaded), **facts}, indent=2))
        return
    _print(loaded, facts)


def _tagged(loaded: Any) -> dict[str, Any]:
    """The model as plain data in which every block names its kinds."""
    from taicang.records import plain

    data: dict[str, Any] = plain(loaded)
    for row, block in zip(data["blocks"], loaded.blocks, strict=True):
        row["attention"] = {"kind": type(block.attention).__name__} | row["attention"]
        row["ffn"] = {"kind": type(block.ffn).__name__} | row["ffn"]
    return data


def _print(loaded: Any, facts: dict[str, Any]) -> None:
    from rich.table import Table

    from taicang.units import show as quantity

    console = terminal.console(highlight=False)
    apart = [f"{kind} {form}" for kind, form in loaded.formats.items() if form != loaded.dtype]
    scope = f" ({', '.join(apart)})" if apart else ""
    console.print(f"[bold]{loaded.name}[/bold]  {loaded.layers} layers, hidden {loaded.hidden}, vocab {loaded.vocab}")
    console.print(f"weights {loaded.dtype}{scope}, context up to {loaded.max_context:,} tokens")
    table = Table("layers", "attention", "feed-forward", box=None)
    for block in loaded.blocks:
        table.add_row(str(block.count), _kind(block.attention), _kind(block.ffn))
    console.print(table)
    counts = Table("parameters", "", box=None)
    for key, value in facts["parameters"].items():
        if value:
            counts.add_row(key.replace("_", " "), _billions(value))
    console.print(counts)
    console.print(f"cache: {facts['kv_bytes_per_token']:,.0f} B/token in {facts['kv_dtype']}")
    console.print(f"cache of one sequence of {facts['context']:,} tokens: {quantity(facts['kv_cache_bytes'], 'B')}")
    console.print(f"decode at that context: {quantity(facts['decode_flop_per_token'], 'FLOP')}/token")
    console.print(f"prefill of that length: {quantity(facts['prefill_flop_per_token'], 'FLOP')}/token")
    for line in loaded.assumptions:
        console.print(f"assumption: {line}", markup=False)
    console.print(f"source: {loaded.source}", markup=False)


def _kind(kind: Any) -> str:
    """One line for an attention or feed-forward kind: its name and the fields that are set."""
    from dataclasses import fields

    parts = []
    for field in fields(kind):
        value = getattr(kind, field.name)
        if value is True:
            parts.append(field.name)
        elif value and field.name == "indexer":
            parts.append(f"indexer({_kind(value)})")
        elif value:
            parts.append(f"{field.name} {value}")
    return f"{type(kind).__name__}: " + ", ".join(parts)


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e7 else f"{count / 1e6:,.2f} M"
