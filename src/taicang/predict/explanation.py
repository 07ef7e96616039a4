"""A prediction as a table and in words."""

from __future__ import annotations

from taicang.predict.prediction import PhasePrediction, Served
from taicang.records import columns
from taicang.units import show


def to_frame(phase: PhasePrediction) -> dict[str, list[object]]:
    """The operators of one step as columns (any data-frame library takes them); times are of the whole step."""
    rows = [
        {
            "label": piece.label,
            "part": piece.part,
            "stream": piece.stream,
            "runs": (runs := float(piece.repeat)),
            "seconds": float(piece.seconds),
            "compute_s": float(piece.cost.compute_s) * runs,
            "memory_s": float(piece.cost.memory_s) * runs,
            "network_s": float(piece.cost.network_s) * runs,
            "latency_s": float(piece.cost.latency_s) * runs,
            "binds": piece.cost.binds,
            "origin": piece.cost.origin,
        }
        for piece in phase.step.slices
    ]
    return columns(rows)


def explain(prediction: Served) -> list[str]:
    """What the figures come down to, most important first."""
    return [*_phase(prediction.decode, prediction), *_between(prediction), *_phase(prediction.prefill, prediction)]


def _between(whole: Served) -> list[str]:
    """Why tokens of an answer lie further apart than the steps that make them, where prompts share the instance."""
    if whole.tpot_s is None or whole.mode != "aggregated":
        return []
    between_s = whole.tpot_s - float(whole.decode.step.seconds) / whole.decode.plan.tokens_per_step
    if between_s < 0.01 * whole.tpot_s:
        return []
    return [f"decode: others' prompts take {show(between_s, 's')} of the {show(whole.tpot_s, 's')} from token to token"]


def _phase(phase: PhasePrediction, whole: Served) -> list[str]:
    busy = float(phase.step.busy_s)
    largest = sorted(phase.step.slices, key=lambda piece: -float(piece.seconds))[:3]
    named = ", ".join(f"{piece.label} ({float(piece.seconds) / busy:.0%})" for piece in largest)
    hidden = float(phase.step.hidden_s)
    share = f"{phase.binds} takes {phase.binds_ratio:.0%} of {show(busy, 's')} of busy time"
    said = [f"{phase.phase}: {share}; largest: {named}"]
    if hidden > 0:
        said.append(f"{phase.phase}: {phase.step.schedule} hides {show(hidden, 's')} of it ({hidden / busy:.0%})")
    if launches := float(phase.step.launches_s):
        wait = float(phase.step.launch_wait_s)
        waits = f"waits {show(wait, 's')} for it" if wait > 0 else "does not wait for it"
        beside = f"the host launches a step in {show(launches, 's')}, beside the device, which {waits}"
        said.append(f"{phase.phase}: {beside}")
    sent = sum(phase.level_bytes.values())
    if sent > 0:
        met = ", ".join(f"{part / sent:.1%} in the {name}" for name, part in phase.level_bytes.items() if part > 0)
        said.append(f"{phase.phase}: a rank sends {show(sent, 'B')} a step to partners that it meets: {met}")
    routed = sum(phase.expert_bytes.values())
    if routed > 0:
        inside, within = 0.0, []
        for name, part in phase.expert_bytes.items():
            inside += part
            within.append(f"{inside / routed:.1%} within the {name}")
        said.append(f"{phase.phase}: of the bytes to and from experts on other ranks, {', '.join(within)}")
    free = float(phase.memory.spare_bytes)
    if phase.phase == "decode":
        held = float(phase.memory.cache_bytes) / max(phase.sequences, 1.0)
        more = int(free / held) if held > 0 else 0
        limit = "the TPOT limit or throughput, not memory" if more > phase.sequences / 4 else "memory"
        said.append(f"decode: room for {more} more sequences per group of {whole.model}; the batch is set by {limit}")
        withheld, cached = float(phase.memory.withheld_bytes), float(phase.memory.cache_bytes)
        if limit == "memory" and withheld > cached:
            kept = f"withholds {show(withheld, 'B')}, more than the cache has ({show(cached, 'B')})"
            said.append(f"decode: the engine {kept}; --memory-fraction gives it another share of the device")
    return said
