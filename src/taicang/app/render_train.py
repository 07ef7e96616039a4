"""Training predictions on the terminal."""

from __future__ import annotations

from rich.console import Console

from taicang.predict.train import TrainPrediction
from taicang.train_plans import describe
from taicang.units import show

console = Console(highlight=False)


def show_training(p: TrainPrediction) -> None:
    """Everything that a training prediction says, headline first."""
    plan, step = p.step.plan, p.step
    console.print(f"[bold]{p.model}[/] on [bold]{p.machine}[/], {p.stack}: {describe(plan)}, {plan.recipe.name}")
    console.print(
        f"  step             {show(step.seconds, 's')} for {plan.global_batch} x {plan.seq} tokens "
        f"({plan.microbatches} microbatches per rank)"
    )
    console.print(
        f"  tokens/s         {step.tokens_per_s:,.0f} ({p.tokens_per_s_per_chip:,.0f} per chip, {p.chips} chips)"
    )
    console.print(
        f"  MFU              {p.mfu_ratio:.1%} of {show(p.peak_flop_per_s, 'FLOP/s')} ({p.peak}); "
        f"HFU {p.hfu_ratio:.1%}; "
        f"{show(step.flop / step.seconds / plan.ranks, 'FLOP/s')} per rank"
    )
    console.print(f"  pipeline bubble  {step.bubble_ratio:.1%} of the mean rank's time")
    power = "unknown" if p.power_w_per_chip is None else show(p.power_w_per_chip, "W") + " of IT power per chip"
    console.print(f"  power            {power}")
    console.print("[bold]where the time goes[/]")
    for name, share in p.waterfall.items():
        console.print(f"  {name:22s} {show(share * step.seconds, 's'):>8s} {share:6.1%} {'█' * round(share * 40)}")
    use = step.memory
    console.print(f"[bold]memory of the fullest rank[/] ({show(use.capacity_bytes, 'B')})")
    for name in ("weights", "gradients", "optimizer", "activations", "working", "runtime", "spare"):
        console.print(f"  {name:22s} {show(float(getattr(use, f'{name}_bytes')), 'B'):>8s}")
    console.print("[bold]assumptions[/]")
    for line in p.assumptions:
        console.print(f"  - {line}")
    console.print("[bold]error band[/] (held-out measurements of this kind)")
    for band in p.bands:
        console.print(
            f"  {band.title}: mean error {band.mape_ratio:.1%}, "
            f"nine in ten within {band.p90_ratio:.0%} ({band.rows} rows)"
        )
    if not p.bands:
        console.print("  none yet")
    console.print(f"[dim]catalogue {p.digest[:12]}; taicang {p.version}[/]")
