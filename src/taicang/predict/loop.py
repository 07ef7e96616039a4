"""A closed loop of clients on one instance, in closed form: what benchmarks of running engines measure."""

from __future__ import annotations

from taicang.plans import ServePlan
from taicang.predict.prediction import Loop
from taicang.search.points import Job
from taicang.serve.memory import cache_tokens, state_room
from taicang.serve.steady import Load, Steady, aggregated
from taicang.units import Count


def room(job: Job, plan: ServePlan) -> float:
    """Sequences of an attention group that fit the memory at once. Raises ``InvalidInput`` where not even one does."""
    setup, mean = job.setup(plan), job.context_tokens
    tokens = float(setup.stack.chunk_tokens)
    return min(cache_tokens(setup, tokens=tokens, context=mean, whole=mean) / mean, state_room(setup, tokens=tokens))


def closed_loop(job: Job, plan: ServePlan, clients: Count) -> Steady:
    """What ``clients`` see who send their next request when an answer has come; those without room wait."""
    load = Load(
        concurrency=clients, input_tokens=job.input_tokens, output_tokens=job.output_tokens, room=room(job, plan),
        spread=job.spread,
    )  # fmt: skip
    return aggregated(job.setup(plan), load)


def loop(job: Job, plan: ServePlan, clients: Count) -> Loop:
    """``closed_loop`` as a prediction tells it."""
    steady, chips = closed_loop(job, plan, clients), -(-plan.ranks // job.machine.chip.dies)
    rate = float(steady.output_tokens_per_s)
    return Loop(
        clients=float(clients), ttft_s=float(steady.ttft_s), tpot_s=float(steady.tpot_s), output_tokens_per_s=rate,
        output_tokens_per_s_per_chip=rate / chips,
    )  # fmt: skip
