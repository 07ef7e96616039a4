"""``taicang serve``."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from taicang.app.options import command
from taicang.app.replay_cmd import give_replay, limits_from
from taicang.app.system_options import system_from, tenants_from
from taicang.errors import InvalidInput, NotModelled

if TYPE_CHECKING:
    from taicang.live.clock import Clock
    from taicang.live.endpoint import Endpoint
    from taicang.live.kv_events import Publisher
    from taicang.predict.standing import Standing
    from taicang.serve.summary import Limits
    from taicang.traffic.trace import Trace

BLOCK = 16
"""Tokens of a prompt that are shared at once, as engines have it, where no trace says otherwise."""


@command("serve")
def serve(model: str, machine: str, as_json: bool, **options: Any) -> None:
    """Serve MODEL on a machine to real clients, in the machine's own time, until Ctrl-C."""
    from taicang.app.replay_files import check
    from taicang.app.trace_options import refuse_unused

    refuse_unused(click.get_current_context(), None)
    check(options["out"], options["form"], perfetto=options["perfetto"])
    limits = limits_from(options, model)
    server = _server()
    trace = background_trace(options["background"], options["seed"])
    standing = _stand(model, machine, trace, options)
    ranks = [(one.name, at) for one in standing.cluster.entry for at in range(len(one.groups))]
    apart = options["data_parallel_ports"]
    build = builder(standing, trace, options, limits)
    with ExitStack() as held:
        events = _publisher(len(ranks), options)
        if events is not None:
            held.callback(events.close)
        listening = server.listen_all(options["host"], options["port"], len(ranks) if apart else 1)
        for each in listening:
            held.enter_context(each)
        ports = [each.getsockname()[1] for each in listening]

        from taicang.live.kv_events import follow

        def begin(clock: Clock) -> Endpoint:
            endpoint = build(clock)
            if apart:
                endpoint.split(dict(zip(ports, ranks, strict=True)))
            if events is not None:
                follow(endpoint.machine, events.send)
            return endpoint

        def ready() -> None:
            names = ", ".join(standing.models)
            more = f", ranks 1 to {len(ranks) - 1} at {ports[1]} to {ports[-1]}" if len(ports) > 1 else ""
            url = f"http://{listening[0].getsockname()[0]}:{ports[0]}/v1"
            click.echo(f"{names} on {standing.machine.name}: {url}{more} (Ctrl-C ends it)", err=True)

        endpoint = server.run(listening, begin, ready, access_log=options["access_log"])
    _report(standing, endpoint, model, options, as_json)


def _publisher(ranks: int, options: dict[str, Any]) -> Publisher | None:
    if not options["kv_events"]:
        if options["kv_replay"] or options["kv_topic"]:
            raise InvalidInput("nothing is told without --kv-events", where="--kv-replay, --kv-topic")
        return None
    from taicang.live.kv_events import Publisher

    apart = options["data_parallel_ports"]
    return Publisher(ranks, options["kv_events"], options["kv_replay"], options["kv_topic"], apart=apart)


def _server() -> Any:
    try:
        from taicang.live import server
    except ImportError as error:
        raise NotModelled(f"needs the {error.name} package: pip install 'taicang[serve]'") from None
    return server


def background_trace(text: str | None, seed: int) -> Trace | None:
    """The trace of ``--background``, at its rate."""
    if not text:
        return None
    from taicang.app.trace_options import RATE, load
    from taicang.live.background import from_profile_at
    from taicang.traffic.generate import arriving

    name, at, rate = text.rpartition("@") if "@" in text else (text, "", "")
    path = Path(name)
    if not os.path.exists(path):
        return from_profile_at(text, seed=seed)
    per_s = RATE.convert(rate, None, None) if at else None
    try:
        trace = load([path], {"seed": seed, "rate": per_s})
    except InvalidInput as error:  # this command mends no traces
        raise InvalidInput(str(error).replace("--repair", "taicang trace convert --repair")) from None
    return arriving(trace, per_s, seed=seed) if per_s and trace.kind != "servegen" else trace


def _stand(model: str, machine: str, trace: Trace | None, options: dict[str, Any]) -> Standing:
    from taicang.predict.standing import context_of, stand

    system = system_from(options, model)
    if (system.order == "deadline" or system.late != "serve") and (trace is None or trace.deadline_s is None):
        raise InvalidInput("clients give no deadlines, and the background has none", where="--order, --late")
    context = options["context"] or (4096 if trace is None else context_of(trace))
    block = trace.block if trace is not None and trace.block else BLOCK
    return stand(model, machine, system, context=float(context), block_tokens=block, seed=options["seed"],
                 **tenants_from(options))  # fmt: skip


def builder(
    standing: Standing, trace: Trace | None, options: dict[str, Any], limits: Limits
) -> Callable[[Clock], Endpoint]:
    """What makes the endpoint once there is a clock; what can be wrong with it is said before."""
    from taicang.live.answers import Answers, recorded
    from taicang.live.background import fitting
    from taicang.live.endpoint import Endpoint, Settings
    from taicang.live.supernode import Supernode
    from taicang.live.tokens import Given, Plain
    from taicang.live.watch import Watch

    tokenizer = Given(options["tokenizer"]) if options["tokenizer"] else Plain()
    said = recorded(options["answers"]) if options["answers"] else None
    answers = Answers(tokenizer, usual=options["answer_tokens"], echo=options["echo"], said=said)
    groups = [group for each in standing.cluster.instances for group in each.groups]
    holds = min(group.cache.tokens for group in groups)
    background = None if trace is None else fitting(trace, holds)
    names = {name: number for number, name in enumerate(standing.models)}
    settings = Settings(
        names=names | dict.fromkeys(options["names"], 0), longest=min(standing.net.max_context, holds),
        block_tokens=groups[0].cache.block, api_key=options["api_key"], most_body=options["max_body"],
        most_waiting=options["max_queue"] or 1 << 62, interval=options["stream_interval"], seed=options["seed"],
    )  # fmt: skip

    def build(clock: Clock) -> Endpoint:
        machine = Supernode(standing.cluster, clock, speed=options["speed"], background=background,
                            strike=standing.strike, layout=standing.layout)  # fmt: skip
        return Endpoint(machine, tokenizer, answers, settings, Watch(machine, standing, limits).views)

    return build


def _report(standing: Standing, endpoint: Endpoint, model: str, options: dict[str, Any], as_json: bool) -> None:
    """What the run was, as ``replay`` says it."""
    from taicang.app.replay_files import write
    from taicang.predict.replay import outcome
    from taicang.traffic.trace import Trace

    machine = endpoint.machine
    if not len(machine.served):
        click.echo("no request was served", err=True)
        return
    columns = {name: np.asarray(column) for name, column in machine.arrivals.items()}
    trace = Trace(
        name="served live", kind="live", arrival_s=np.asarray(machine.came_s), input_tokens=columns["input"],
        output_tokens=columns["output"], model=columns["model"] if len(standing.models) > 1 else None,
    )  # fmt: skip
    result = outcome(standing, trace, machine.served, limits=limits_from(options, model), partial=False,
                     requests=len(machine.served))  # fmt: skip
    try:
        if options["out"]:
            write(result, options["out"], options["form"], perfetto=options["perfetto"])
    finally:
        give_replay(result, trace, as_json=as_json)
