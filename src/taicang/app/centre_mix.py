"""Several kinds of work in one centre, as options: each is a question of its own on the same machines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from taicang.app.asking import OUTPUT, key_of
from taicang.app.options import context_of
from taicang.errors import InvalidInput, UnknownName

COMMON = frozenset(
    {"compare", "count", "currency", "machine", "mix", "mtbf", "figure", "price", "rent", "tariff", "pue", "carbon"}
    | {"samples", "seed", "site", "spares", "crew", "utilisation"}
    | OUTPUT
)
"""Options of the centre, which all its work shares."""


def written(entries: Any, where: str) -> list[str]:
    """The list below ``mix`` in a centre's file as values of the option. Raises ``InvalidInput``."""
    if not isinstance(entries, list):
        raise InvalidInput("expected a list, one entry for each kind of work", where=where)
    return [
        ",".join(f"{key}={value}" for key, value in each.items()) if isinstance(each, Mapping) else str(each)
        for each in entries
    ]


def mixed(spec: str, options: dict[str, Any], command: click.Command) -> tuple[Any, list[str]]:
    """The case of a machine that does all work in ``options["mix"]``, and what it assumes."""
    from taicang.app.centre_options import case, loaded
    from taicang.catalog import machine
    from taicang.centre.mix import combine

    for name, flag in (("serve", "--serve"), ("trained", "--train"), ("load", "--load"), ("diurnal", "--diurnal")):
        if options[name]:
            raise InvalidInput("every kind of work has its own", where=f"{flag} beside --mix")
    base, said = case(spec, options)
    parts, shares, rates = [], [], []
    for text in options["mix"]:
        share, one = _entry(spec, text, options, command)
        rate, one["load"] = one["load"], None
        part, told = case(spec, one)
        parts.append(part)
        shares.append(share)
        rates.append(rate)
        said += [f"{one['serve'] or one['trained']}: {line}" for line in told if line not in said]
    if None in shares and any(share is not None for share in shares):
        raise InvalidInput("needs share=... for every kind of work, or load=... for every one", where="--mix")
    if None not in shares:
        return combine(base, list(zip(shares, parts, strict=True))), said
    busy = [rate * part.serving.request_s for rate, part in zip(rates, parts, strict=True)]
    whole = f"{sum(rates):g} requests/s of {len(parts)} kinds"
    base.figures["utilisation"] = loaded(spec, machine(spec, options["sets"]), options, sum(busy), whole, base.figures)
    return combine(base, [(each / sum(busy), part) for each, part in zip(busy, parts, strict=True)]), said


def _entry(spec: str, text: str, options: dict[str, Any], command: click.Command) -> tuple[Any, dict[str, Any]]:
    """Share (None: by load) and options of one kind of work."""
    from taicang.app.load_options import named_load
    from taicang.centre.figures import given

    keys = {key_of(param): param for param in command.params if key_of(param) not in COMMON}
    share, words = None, [spec]
    for item in re.split(r",(?=[a-z-]+=)", text):
        key, equals, value = item.partition("=")
        if not equals:
            raise InvalidInput(f"expected KEY=VALUE,..., got {item!r}", where="--mix")
        if key == "share":
            share = given("share", value, "--mix share").middle
        elif key in keys:
            words.append(f"--{key}={value}")
        else:
            raise UnknownName("key", key, ["share", *keys], where="--mix")
    try:
        context = context_of(command, words)
    except click.ClickException as error:
        raise InvalidInput(f"{error.format_message()} in {text!r}", where="--mix") from None
    made = {**options, **{str(param.name): context.params.get(str(param.name)) for param in keys.values()}}
    made["mix"] = ()
    if bool(made["serve"]) == bool(made["trained"]):
        raise InvalidInput(f"needs serve=MODEL or train=MODEL: {text!r}", where="--mix")
    if (share is None) == (made["load"] is None):
        raise InvalidInput(f"needs share=60% or load=40/s, one of both: {text!r}", where="--mix")
    if made["serve"]:
        with context:
            named_load(made, made["serve"])
    return share, made
