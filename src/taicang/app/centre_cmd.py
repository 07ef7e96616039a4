"""``taicang centre``, and the cases that its options stand for."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from taicang.app.ask_cmd import OUTPUT, Asking, Question, answer, key_of
from taicang.app.load_options import named_load, run_from
from taicang.app.options import command, context_of, give, named
from taicang.errors import InvalidInput, UnknownName


@command("centre", Asking)
def centre(machine: str, others: str | None, page: Path | None, as_json: bool, **options: Any) -> Any:
    """What a centre of MACHINE costs: per chip-hour, million tokens and training run."""
    found = _file(click.get_current_context(), machine)
    if found is not None:
        return found[0]
    from taicang.centre.compare import compare, shares
    from taicang.centre.report import report
    from taicang.records import plain

    if options["serve"]:
        named_load(options, options["serve"])
    machine, *beside = named(machine, "MACHINE")
    names = [machine, *beside, *named(others, "--compare")]
    if options["load"] is not None and not options["serve"]:
        raise click.UsageError("--load needs --serve MODEL")
    if len(names) > 1 and not options["serve"]:
        raise click.UsageError("several machines are compared by what they serve: give --serve MODEL")
    cases, said = [], []
    for name in names:
        try:
            if options["mix"]:
                one, told = mixed(name, options, click.get_current_context().command)
            else:
                one, told = case(name, options if name == machine else options | {"price": None, "rent": None})
        except Unfit as error:
            if name == machine:
                return _unfit(error.infeasible, as_json)
            said.append(f"{name}: left out: {error}")
            continue
        cases.append(one)
        said += told if name == machine else [f"{name}: {line}" for line in told]
    drawn = {"currency": options["currency"], "samples": options["samples"], "seed": options["seed"]}
    told_of = report(cases[0], **drawn)
    rows = compare(cases, **drawn) if len(cases) > 1 else ()
    work = shares(cases[0], **drawn)
    said = list(dict.fromkeys(said))
    made = _plain(cases[0], told_of, rows, said) | {"mix": plain(work)}

    def shown() -> None:
        from taicang.app.render_centre import show

        show(cases[0], told_of, rows, said, work)

    return give("centre", made, shown, as_json=as_json, page=page, title=f"{machine}, centre")


def _file(ctx: click.Context, machine: str) -> Any:
    """The answer to a centre's file, whose keys are the options; None where ``machine`` is no such file."""
    path = Path(machine)
    if path.suffix.lower() not in (".yaml", ".yml") or not os.path.isfile(path):
        return None
    from taicang.catalog import files

    body = {str(key): value for key, value in files.read(path).items()}
    if "machine" not in body:
        return None
    words = [word for word in ctx.meta["taicang.words"] if word != machine]
    body.pop("ask", None)
    if "mix" in body:
        body["mix"] = written(body["mix"], files.where(path, ["mix"]))
    return (answer(Question(ask="centre", given=body, defaults={}), ctx.command, path, words),)


def _unfit(infeasible: Any, as_json: bool) -> int:
    from taicang.app.render import show_infeasible

    fields = {"infeasible": True, "reason": infeasible.reason}
    return give("centre", fields, lambda: show_infeasible(infeasible), as_json=as_json, feasible=False)


def _plain(case: Any, told: Any, rows: Any, said: list[str]) -> dict[str, Any]:
    """The report for programs, with its figures and where they come from."""
    from taicang.records import plain

    made: dict[str, Any] = plain(told)
    return made | {
        "infeasible": False,
        "machine_chips": case.plant.machine.chips,
        "serving": plain(case.serving),
        "training": plain(case.training),
        "bands": plain(case.bands),
        "compared": plain(rows),
        "figures": plain(case.figures),
        "assumptions": said,
    }


RANGES = ("price", "rent", "tariff", "pue", "carbon", "utilisation")
"""Ranges with an option of their own."""


def case(spec: str, options: dict[str, Any]) -> tuple[Any, list[str]]:
    """The case of one machine and what it assumes.

    Raises ``Unfit`` where nothing serves or trains there.
    """
    from taicang import catalog
    from taicang.centre.cost import Plant
    from taicang.centre.draw import Case
    from taicang.centre.figures import Figure, kept, of_case

    machine = catalog.machine(spec, options["sets"])
    figures, place, rented, said = of_case(
        spec, machine.chip.vendor, site_name=options["site"], stated=_stated(options), sets=options["sets"]
    )
    work, run = None, None
    bands: dict[str, Any] = {}
    if options["serve"]:
        work, bands, told = _served(spec, machine, options)
        figures["error"] = Figure(
            key="error", low=0.0, high=work.error_ratio, title="error of the prediction", kind="calibrated",
            source="scoreboard", note="of tokens/s, nine times in ten",
        )  # fmt: skip
        if options["load"] is not None:
            rates = f"{options['load']:g} requests/s"
            figures["utilisation"] = loaded(spec, machine, options, options["load"] * work.request_s, rates, figures)
        said += told
    if options["trained"]:
        run, bands = _trained(machine, options)
    figures = kept(figures, rented=rented)
    prices = _prices(options, figures) if options["serve"] else {}
    made = Case(
        name=spec,
        plant=Plant(machine=machine, rented=rented, steps=place.steps, day=_day(options)),
        count=options["count"],
        figures=figures,
        serving=work,
        training=run,
        bands=bands,
        prices=prices,
        mtbf_s=dict(options["mtbf"]),
        spare_chips=options["spares"],
        crew=options["crew"] or 0,
    )
    return made, said


def _stated(options: dict[str, Any]) -> dict[str, Any]:
    """Figures that the user states."""
    from taicang.centre.figures import built_in, given

    known = built_in()
    made = {key: given(key, options[key]) for key in RANGES if options[key] is not None}
    for text in options["figures"]:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise InvalidInput(f"expected KEY=RANGE, got {text!r}", where="--figure")
        if key not in known:
            raise UnknownName("figure", key, [*known, *RANGES], where="--figure")
        made[key] = given(key, value.strip(), f"--figure {key}")
    return {key: replace(figure, title=known[key].title if key in known else key) for key, figure in made.items()}


def _served(spec: str, machine: Any, options: dict[str, Any]) -> tuple[Any, Any, list[str]]:
    from taicang.catalog.models import model as load_model
    from taicang.centre.draw import serving
    from taicang.predict import Infeasible
    from taicang.predict.serving import answer

    net = load_model(options["serve"], approximate=options["approximate"])
    found = answer(run_from(options, net, machine))
    if isinstance(found, Infeasible):
        raise Unfit(found)
    made = serving(net, machine, found, options["hits"])
    said = list(found.assumptions)
    if found.bands["throughput"].high_ratio is None:
        said.append("no measurement is near this prediction: its own error is unknown, and in none of the bands")
    if options["hits"] and made.cached_s is None:
        said.append(f"{spec} publishes no pool of host memory: tokens found in a cache cost nothing")
    return made, found.bands, said


def loaded(spec: str, machine: Any, options: dict[str, Any], chips: float, rates: str, figures: Any) -> Any:
    """The utilisation when a load keeps ``chips`` busy. Raises ``InvalidInput`` where that is more than there is."""
    from taicang.centre.figures import Figure

    if options["utilisation"] is not None:
        raise InvalidInput("is computed from --load; give one of both", where="--utilisation")
    used, available = chips / (machine.chips * options["count"]), figures["availability"]
    if used > available.low:
        count = math.ceil(options["count"] * used / available.low)
        raise InvalidInput(f"{rates} take {count} of {spec}; give --count", where="--load")
    return Figure(key="utilisation", low=used / available.high, high=used / available.low, kind="computed",
                  title="utilisation", source="user", note=f"of {rates}")  # fmt: skip


def _trained(machine: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    from taicang.centre.draw import training
    from taicang.predict import Infeasible
    from taicang.predict.train import train
    from taicang.train_plans import TrainPlan

    if not options["tokens"]:
        raise InvalidInput("a training run needs --tokens, e.g. 2T", where="--train")
    plan = TrainPlan(seq=options["seq"], global_batch=0, dp=0)
    found = train(options["trained"], machine, plan, tokens=options["tokens"], searched=True)
    if isinstance(found, Infeasible):
        raise Unfit(found)
    return training(found), found.bands


class Unfit(Exception):
    """A machine that cannot do the work."""

    def __init__(self, infeasible: Any) -> None:
        super().__init__(infeasible.reason)
        self.infeasible = infeasible


def _prices(options: dict[str, Any], figures: dict[str, Any]) -> dict[str, float]:
    """Yuan per million tokens: what the user states, or the first published list of the model."""
    from taicang.catalog.models import model as load_model
    from taicang.centre.figures import listed_prices
    from taicang.units import parse

    rate = figures["rate"].middle
    if options["api"]:
        numbers, _, unit = options["api"].strip().rpartition(" ")
        parts = [part.strip() for part in numbers.split(",")]
        if len(parts) != 3 or unit not in ("USD", "CNY"):
            raise InvalidInput(f"expected such as '0.55,0.14,2.19 USD', got {options['api']!r}", where="--api")
        texts = dict(zip(("input", "cached", "output"), (f"{part} {unit}" for part in parts), strict=True))
    else:
        listed = listed_prices(load_model(options["serve"], approximate=options["approximate"]).name)
        if not listed:
            return {}
        texts = {key: str(listed[0][key]) for key in ("input", "cached", "output")}
        texts["cached"] = texts["input"] if texts["cached"] == "unknown" else texts["cached"]
    scale = {"USD": rate, "CNY": 1.0}
    return {key: parse(text, text[-3:].lower(), where="--api") * scale[text[-3:]] for key, text in texts.items()}


def _day(options: dict[str, Any]) -> tuple[float, ...]:
    """The load of each hour over its mean."""
    if not options["diurnal"]:
        return (1.0,) * 24
    import numpy as np

    from taicang.app.trace_options import rhythm

    made = rhythm(options["diurnal"], options["profile"])
    weights = np.asarray(made.weight_ratio, dtype=float)
    fine = np.interp((np.arange(24 * 60) + 0.5) / (24 * 60), (np.arange(len(weights)) + 0.5) / len(weights), weights)
    hours = fine.reshape(24, 60).mean(axis=1)
    return tuple(float(each) for each in hours / hours.mean())


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
    from taicang.catalog import machine
    from taicang.centre.compare import combine

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
