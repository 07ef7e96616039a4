"""Predictions on the terminal."""

from __future__ import annotations

from taicang.app import terminal
from taicang.app.render_bands import closing, cost_line, listed
from taicang.centre.quote import Quote
from taicang.plans import describe
from taicang.predict.explanation import explain
from taicang.predict.prediction import Infeasible, PhasePrediction, Served
from taicang.units import show

console = terminal.console(highlight=False, soft_wrap=True)

FILLS = (
    ("attention weights", "attention_bytes"),
    ("feed-forward weights", "dense_bytes"),
    ("expert weights", "experts_bytes"),
    ("shared experts", "shared_bytes"),
    ("embedding and head", "embedding_bytes"),
    ("draft layers", "draft_bytes"),
    ("KV cache", "cache_bytes"),
    ("activations", "activation_bytes"),
    ("exchange buffers", "exchange_bytes"),
    ("runtime", "runtime_bytes"),
    ("withheld by the engine", "withheld_bytes"),
)


TTFT = {
    True: "of a lone prompt: its prefill and the move of its cache; under this load\n"
    "  that of its batch, without waiting (--ttft with --attainment leaves room for it)",
    False: "of a lone prompt; under this load with others' prompts and decode steps in\n"
    "  between, which gives the throughput (--ttft limits it); no queueing",
}
"""What the two TTFTs are of, by whether prefill has instances of its own."""


def show_prediction(p: Served, *, whole: bool, quote: Quote | str | None = None) -> None:
    """Everything that a prediction says, headline first."""
    console.print(
        f"[bold]{p.model}[/] on [bold]{p.machine}[/], {p.stack}, {p.input_tokens} + {p.output_tokens} tokens, {p.mode}"
    )
    table = terminal.table("", "decode", "prefill")
    apart = p.mode == "disaggregated"
    rows = (
        ("plan", describe(p.decode.plan), describe(p.prefill.plan)),
        ("whole instances", _instances(p.decode), _instances(p.prefill) if apart else "the same"),
        ("batch per group", f"{p.decode.sequences:.0f}", f"{p.prefill.sequences:.0f} prompts"),
        ("latency", f"TPOT {show(p.tpot_s, 's')}", f"TTFT {show(p.ttft_s, 's')}"),
        ("  under this load", "", f"TTFT {show(p.loaded_ttft_s, 's')}"),
        ("step", show(p.decode.step_s, "s"), show(p.prefill.step_s, "s")),
        ("tokens/s per instance", f"{p.decode.tokens_per_s:,.0f}", f"{p.prefill.tokens_per_s:,.0f}"),
        ("tokens/s per chip", f"{p.decode.tokens_per_s_per_chip:,.0f}", f"{p.prefill.tokens_per_s_per_chip:,.0f}"),
        ("tokens/s per die", f"{p.decode.tokens_per_s_per_rank:,.0f}", f"{p.prefill.tokens_per_s_per_rank:,.0f}"),
        ("tokens/J", _optional(p.decode.tokens_per_j), _optional(p.prefill.tokens_per_j)),
        ("binds", _binds(p.decode), _binds(p.prefill)),
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    # of one token there is no speed
    speed = "" if p.user_tokens_per_s is None else f", each of whom sees {p.user_tokens_per_s:.3g} tokens/s"
    console.print(
        f"together: {p.machine_output_tokens_per_s:,.0f} output tokens/s on the whole machine, "
        f"{p.output_tokens_per_s_per_chip:,.0f} per chip\n"
        f"  {p.requests_per_s:.3g} requests/s, {p.users:,.0f} users at a time{speed}\n"
        f"  {p.chips} of {p.machine_chips} chips in use by whole instances"
        + (f", {p.prefill_chips_ratio:.0%} of them in prefill" if apart else "")
        + (f"; {p.machine_chips - p.chips} idle" if p.machine_chips > p.chips else "")
    )
    console.print(f"TTFT is {TTFT[apart]}")
    if p.loop is not None:
        console.print(
            f"closed loop of {p.loop.clients:.0f} clients on one instance: TTFT {show(p.loop.ttft_s, 's')}, TPOT "
            f"{show(p.loop.tpot_s, 's')}, {p.loop.output_tokens_per_s:,.0f} output tokens/s "
            f"({p.loop.output_tokens_per_s_per_chip:,.0f} per chip)"
        )
    if p.power_w_per_chip is not None:
        console.print(
            f"power: {show(p.power_w_per_chip, 'W')} of IT power per chip; "
            f"{_optional(p.output_tokens_per_s_per_w)} output tokens per joule"
        )
    else:
        console.print("power: unknown (no public figure for this machine)")
    if quote is not None:
        console.print(cost_line(quote))
    _memory(p.decode)
    _waterfall(p.decode, whole=whole)
    listed(console, "why", explain(p))
    figures = {"tpot": (p.tpot_s, "s"), "ttft": (p.ttft_s, "s")}
    closing(console, p, figures, f"{p.candidates:,} candidates; ")


def _optional(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _instances(phase: PhasePrediction) -> str:
    return f"{phase.instances} x {phase.chips} chip" + "s" * (phase.chips > 1)


def _binds(phase: PhasePrediction) -> str:
    return f"{phase.binds} ({phase.binds_ratio:.0%})"


def _memory(phase: PhasePrediction) -> None:
    use = phase.memory
    console.print(f"[bold]memory per rank, decode[/] ({show(use.capacity_bytes, 'B')})")
    for label, field in FILLS:
        size = float(getattr(use, field))
        if size > 0:
            console.print(f"  {label:22s} {show(size, 'B'):>8s} {_bar(size / use.capacity_bytes)}")
    console.print(f"  {'free':22s} {show(float(use.spare_bytes), 'B'):>8s}")
    console.print(
        f"  weights {show(phase.weights_bytes_per_rank, 'B')} per rank; room for {phase.cache_room_tokens:,.0f} cached "
        f"tokens per rank, {phase.instance_cache_room_tokens:,.0f} per instance"
    )


def _bar(share: float) -> str:
    return "█" * round(share * 40) or "▏"


def _waterfall(phase: PhasePrediction, *, whole: bool) -> None:
    step = phase.step
    last = max(piece.block for piece in step.slices)
    console.print(
        f"[bold]decode step[/] {show(float(step.seconds), 's')} ({step.schedule}; "
        f"{show(float(step.hidden_s), 's')} hidden by overlap)"
    )
    for part, seconds in step.by_part().items():
        console.print(f"  {part:22s} {show(float(seconds), 's'):>8s} {_bar(float(seconds) / float(step.busy_s))}")
    shown = [p for p in step.slices if whole or (p.block == last and p.part != "draft")]
    console.print("[bold]all operators[/]" if whole else "[bold]one layer[/] (of the last kind, per microbatch)")
    table = terminal.table("operator", "stream", "runs", "each", "binds", words=("operator", "stream", "binds"))
    for piece in shown:
        times = f"{float(piece.repeat):.0f}", show(float(piece.cost.seconds), "s")
        table.add_row(piece.label, piece.stream, *times, piece.cost.binds)
    console.print(table)


def show_infeasible(found: Infeasible) -> None:
    """Why nothing fits, by how much, and what would help."""
    console.print(f"[bold]infeasible[/]: {found.model} on {found.machine}: {found.reason}")
    console.print(f"  needed    {found.needed}\n  available {found.available}")
    for remedy in found.remedies:
        console.print(f"  try       {remedy}")
