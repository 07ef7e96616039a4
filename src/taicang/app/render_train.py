"""Training predictions on the terminal."""

from __future__ import annotations

from taicang.app import terminal
from taicang.app.render_bands import closing
from taicang.predict.train import TrainPrediction
from taicang.predict.train_explain import WATERFALL, Explained
from taicang.reliability import DAY
from taicang.train.placement import Placed
from taicang.train.run import Run
from taicang.train.search import Found, why
from taicang.train_plans import describe
from taicang.units import show

console = terminal.console(highlight=False)


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
    if p.placement:
        console.print("[bold]placement[/] " + "; ".join(_placed(one) for one in p.placement))
    _waterfall(p)
    if p.found is not None:
        _search(p.found)
    if p.run is not None:
        _run(p.run, p.chips)
    if p.explained is not None:
        console.print("[bold]10 % more of a resource saves[/]")
        for name, gain in p.explained.gain_ratio.items():
            console.print(f"  {name:22s} {gain:6.1%}")
        _traffic(p.explained, step.seconds)
    use = step.memory
    console.print(f"[bold]memory of the fullest rank[/] ({show(use.capacity_bytes, 'B')})")
    for name in ("weights", "gradients", "optimizer", "activations", "working", "runtime", "spare"):
        if name == "spare" and use.apart_bytes:
            console.print(f"  {'never at once':22s} {show(-float(use.apart_bytes), 'B'):>8s}")
        console.print(f"  {name:22s} {show(float(getattr(use, f'{name}_bytes')), 'B'):>8s}")
    if use.host_bytes:
        console.print(f"  {'offloaded':22s} {show(float(use.host_bytes), 'B'):>8s}")
    closing(console, p, {"step_time": (step.seconds, "s")})


def _traffic(found: Explained, seconds: float) -> None:
    """Which axis sends how much at which level."""
    if not found.traffic:
        return
    levels = list(found.traffic[0].level_bytes)
    table = terminal.table("axis", *levels, *(f"within {name}" for name in levels[:-1]), "exposed")
    console.print("[bold]what a rank sends in a step, by the level at which it meets the receiver[/]")
    for one in found.traffic:
        shares = [f"{one.inside_ratio[name]:.1%}" for name in levels[:-1]]
        sizes = [show(size, "B") if size >= 1.0 else "-" for size in one.level_bytes.values()]
        table.add_row(one.axis, *sizes, *shares, show(one.exposed_s, "s"))
    console.print(table)
    console.print(f"  ranks at random places: {show(found.random_s, 's')} ({found.random_s / seconds - 1.0:+.1%})")


def _placed(one: Placed) -> str:
    """An axis with the members that meet in a unit of each level it crosses: "dp 16: 2 in nvlink, 16 in scale_out"."""
    inside = ", ".join(f"{count:g} in {level}" for level, count in one.together)
    return f"{one.axis} {one.ranks:g}: {inside}"


def _waterfall(p: TrainPrediction) -> None:
    """From the peak down: what each cause adds, group by group."""
    whole = p.step.seconds if p.run is None else p.step.seconds / p.run.goodput_ratio
    console.print("[bold]where the time goes[/]" + ("" if p.run is None else " (per step of the run)"))
    groups = {line: group for group, lines in WATERFALL for line in lines}
    for name, share in p.waterfall.items():
        group = groups.get(name, "")
        label = f"{group}: {name}" if group in ("exposed communication", "imbalance") else name
        label = label.replace("exposed communication", "exposed")
        console.print(f"  {label:26s} {show(share * whole, 's'):>8s} {share:6.1%} {'█' * round(share * 40)}")


def _search(found: Found) -> None:
    console.print(
        f"[bold]search[/]: {found.candidates:,} legal plans, {found.fitting:,} fit the memory; fastest layouts"
    )
    best = found.best[0]
    for step in found.best[:6]:
        lost = ", ".join(f"{line} +{show(more, 's')}" for line, more in why(best, step)[:3])
        console.print(f"  {show(step.seconds, 's'):>8s}  {describe(step.plan)}" + (f"  ({lost})" if lost else ""))
    console.print("  time against memory (no plan is better in both):")
    for step in found.front:
        size = float(step.memory.total_bytes)
        console.print(f"  {show(step.seconds, 's'):>8s}  {show(size, 'B'):>8s}  {describe(step.plan)}")


def _days(seconds: float) -> str:
    """Days, of short runs with a figure that is not nothing."""
    days = seconds / DAY
    return f"{days:.2f}" if days >= 0.01 else f"{days:.1g}"


def _run(run: Run, chips: int) -> None:
    console.print(f"[bold]run[/] of {show(run.tokens, '')} tokens: {run.steps:,.0f} steps")
    low, high = (_days(seconds) for seconds in run.band_s)
    console.print(
        f"  days             {_days(run.seconds)} (by failures' chance {low} to {high}); steps alone "
        f"{_days(run.busy_s)}, goodput {run.goodput_ratio:.1%}"
    )
    classes = ", ".join(f"{name} {count:.2g}" for name, count in run.failures.items())
    console.print(
        f"  failures         {sum(run.failures.values()):.1f} expected ({classes}), one in "
        f"{show(run.mean_time_between_failures_s / 3600, 'h')}"
    )
    console.print(
        f"  lost             {run.lost_s / DAY:.3f} days of work and restarts, {run.waiting_s / DAY:.3f} to chips "
        "without a replacement"
    )
    console.print(
        f"  checkpoints      {show(run.checkpoint_bytes, 'B')} every {run.interval_s / 60:.1f} min, "
        f"{show(run.stall_s, 's')} of stall each"
    )
    if run.energy_j is None or run.power is None or run.electricity_usd is None:
        console.print("  energy           unknown (no public power figure for this machine)")
    else:
        monthly = run.electricity_usd / run.seconds * 30 * DAY / chips
        power = run.power
        console.print(
            f"  energy           {run.energy_j / 3.6e9:,.1f} MWh at {show(power.total_w, 'W')}: chips "
            f"{show(power.chips_w, 'W')}, hosts {show(power.hosts_w, 'W')}, network {show(power.network_w, 'W')}, "
            f"cooling {show(power.cooling_w, 'W')}"
        )
        console.print(f"  electricity      {run.electricity_usd:,.0f} USD ({monthly:.0f} USD per chip and month)")
    if run.rent_usd:
        console.print(f"  rent             {run.rent_usd:,.0f} USD")
    if run.capital_usd is not None:
        console.print(f"  write-off        {run.capital_usd:,.0f} USD of the machine's price")
