"""Options of ``taicang centre``, and the cases that they stand for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from taicang.app.ask_cmd import OUTPUT, key_of
from taicang.app.load_options import run_from
from taicang.app.options import MOST, Finite, Named, Quantity, Whole, context_of, stacked
from taicang.errors import InvalidInput, UnknownName

RANGES = {
    "price": "Price of one machine, e.g. '60..127 MCNY' (default: published readings).",
    "rent": "Rent instead of buying: per chip and hour, e.g. '2 USD/h' or '12..15 CNY/h'.",
    "tariff": "Mean price of electricity, e.g. '0.40..0.55 CNY/kWh' (default: the site's).",
    "pue": "Power usage effectiveness (default: the site's).",
    "carbon": "kg of carbon dioxide per kWh (default: the grid's).",
    "utilisation": "Share of available hours that are used, e.g. 30% or '20..40 %'.",
}
"""Ranges with an option of their own."""
WORK = stacked(
    click.option("--serve", metavar="MODEL", help="Serve this model: cost per million tokens at the limits given."),
    click.option(
        "--load",
        type=Quantity("per_s", "RATE"),
        metavar="RATE",
        help="Requests per second in the mean, e.g. 40/s: utilisation is computed from it.",
    ),
    click.option("--hits", type=Finite(0, 1), default=0.0, show_default=True, help="Share of input found in a cache."),
    click.option("--train", "trained", metavar="MODEL", help="Also what a training run of --tokens tokens costs."),
    click.option("--tokens", type=Whole(1, most=MOST, name="TOKENS"), help="Tokens of the training run, e.g. 2T."),
    click.option("--seq", type=Whole(1), default=4096, show_default=True, help="Tokens of its sequences."),
    click.option("--diurnal", metavar="SHARE|profile|FILE", default="", help="Daily shape of the load, as for replay."),
)
"""One kind of work."""
MONEY = stacked(
    click.option("--count", type=Whole(1), default=1, show_default=True, help="Machines of this kind."),
    click.option("--mix", multiple=True, metavar="KEY=VALUE,...", help="Instead of --serve or --train, several times: "
                 "a kind of work with its share (or load) and its options, 'share=60%,serve=qwen3-32b,tpot=50ms'."),
    click.option("--site", default="default", show_default=True, help="inner-mongolia, guangdong, any province."),
    *(click.option(f"--{name}", name, metavar="RANGE", help=text) for name, text in RANGES.items()),
    click.option("--figure", "figures", multiple=True, metavar="KEY=RANGE",
                 help="Any other figure: years=5, interest=3..4%, rate='7.2 CNY/USD', staff='9000 CNY'."),
    click.option("--api", metavar="IN,CACHED,OUT", help="Prices per million tokens: '0.55,0.14,2.19 USD' (default: "
                 "the published list of the model)."),
    click.option("--mtbf", type=Named(), multiple=True, metavar="CLASS=DURATION", help="As for train."),
    click.option("--spares", type=Whole(0), default=0, show_default=True, help="Idle chips that stand in at once."),
    click.option("--crew", type=Whole(1), help="Repairs that go on at a time (default: as many as there are)."),
    click.option("--currency", type=click.Choice(["CNY", "USD"]), default="CNY", show_default=True, help="Of results."),
    click.option("--samples", type=Whole(100, 10**6), default=20_000, show_default=True, help="Draws of the ranges."),
    click.option("--seed", type=Whole(0), default=0, show_default=True, help="Of the draws."),
)  # fmt: skip
"""What there is of it, where it stands and what things cost."""


def case(spec: str, options: dict[str, Any]) -> tuple[Any, list[str]]:
    """The case of one machine and what it assumes.

    Raises ``Unfit`` where nothing serves or trains there.
    """
    from taicang import catalog
    from taicang.centre.cost import Plant
    from taicang.centre.draw import Case
    from taicang.centre.figures import kept, of_case

    machine = catalog.machine(spec, options["sets"])
    figures, place, rented, said = of_case(
        spec, machine.chip.vendor, site_name=options["site"], stated=_stated(options), sets=options["sets"]
    )
    work, run = None, None
    if options["serve"]:
        work, told = _served(spec, machine, options)
        figures["error"] = _error(work.error_ratio)
        if options["load"] is not None:
            rates = f"{options['load']:g} requests/s"
            figures["utilisation"] = loaded(spec, machine, options, options["load"] * work.request_s, rates, figures)
        said += told
    if options["trained"]:
        run = _trained(machine, options)
    figures = kept(figures, rented=rented)
    prices = _prices(options, figures) if options["serve"] else {}
    made = Case(
        name=spec,
        plant=Plant(machine=machine, rented=rented, steps=place.steps, day=_day(options)),
        count=options["count"],
        figures=figures,
        serving=work,
        training=run,
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


def _error(ratio: float) -> Any:
    from taicang.centre.figures import Figure

    return Figure(key="error", low=0.0, high=ratio, title="error of the prediction", kind="calibrated",
                  source="scoreboard", note="of tokens/s, nine times in ten")  # fmt: skip


def _served(spec: str, machine: Any, options: dict[str, Any]) -> tuple[Any, list[str]]:
    from taicang.catalog.models import model as load_model
    from taicang.centre.work import serving
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
    return made, said


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


def _trained(machine: Any, options: dict[str, Any]) -> Any:
    from taicang.centre.work import training
    from taicang.predict import Infeasible
    from taicang.predict.train import train
    from taicang.train_plans import TrainPlan

    if not options["tokens"]:
        raise InvalidInput("a training run needs --tokens, e.g. 2T", where="--train")
    plan = TrainPlan(seq=options["seq"], global_batch=0, dp=0)
    found = train(options["trained"], machine, plan, tokens=options["tokens"], searched=True)
    if isinstance(found, Infeasible):
        raise Unfit(found)
    return training(found)


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
