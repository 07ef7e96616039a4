"""Published serving results: throughput, latency and power as vendors, MLPerf and projects report them.

What the model says of a row has one branch per kind of load, chosen by what the row states.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from taicang.catalog.costing import energy_fit
from taicang.catalog.grounds import Ground, ground
from taicang.catalog.rules import section
from taicang.cost.energy import Activity
from taicang.errors import InvalidPlan, MissingFigure, NotModelled
from taicang.evidence.measured import attempt
from taicang.evidence.published import RULES, RUN_S, Published, formats, make, setups, stack_of
from taicang.evidence.systems import machine_for
from taicang.hardware import Machine
from taicang.models.count import kv_cache_bytes
from taicang.ops import Transfer
from taicang.plans import Batch, decode_batch, prefill_batch, scaled
from taicang.search.space import usual
from taicang.serve.saturated import Saturated, drained, limited, most_sequences, offline
from taicang.serve.setup import Setup, step
from taicang.serve.steady import Load, aggregated, together
from taicang.serve.usage import activity, step_power_w
from taicang.stacks import Stack


def run_of(row: Published) -> Ground | None:
    """What is known of a row; one that leaves its layout to the submitter is an instance of a node."""
    use = "disaggregated" if row.phase in ("prefill", "decode", "pd-disagg", "1P1D") else "aggregated"
    if made := attempt(partial(setups, row))[0]:
        one = made[0]
        return ground(
            one.model, one.machine, one.stack, use=use, ranks=int(one.plan.ranks), quant=one.plan.quant, plan=one.plan
        )
    if "scenario" not in row.batch or attempt(lambda: row.machine)[0] is None:
        return None
    machine, stack = machine_for(row.machine, 1), stack_of(row)
    quant = formats(row, row.net, stack)
    return ground(row.net, machine, stack, use="saturated", ranks=min(row.count, machine.ranks), quant=quant)


STEP_TOKENS = (2048.0, 32768.0)
"""Least and most tokens of a step that TensorRT-LLM's benchmark chooses; between them, batch x (1 + input / output)."""


def predict(row: Published, phase: str = "", stack: Stack | None = None) -> float:
    """The row's metric in SI units (``phase`` "decode": the time of a decode step beside it).

    Raises ``NotModelled`` where the source leaves the load open, and whatever the setup raises.
    """
    if "unstated" in row.extra:
        raise NotModelled(row.extra["unstated"])
    if row.metric == "prompt_time":
        return _prompt_s(row, stack) if phase != "decode" else _step_s(row, stack)
    if row.metric == "median_itl":
        return _median_itl_s(row, stack)
    if row.metric == "ttft":
        return _ttft_s(row, stack)
    if "tokens_per_s" not in row.metric:
        raise NotModelled(f"metric {row.metric}")
    return per_chip(row, stack) * _chips(row)


def token_s(row: Published) -> float:
    """The time of a decode step beside that of the prompt."""
    return predict(row, "decode")


def _chips(row: Published) -> float:
    """Chips that the row's figure is for."""
    if row.metric.endswith("per_gpu"):
        return 1.0
    if row.metric.endswith("per_node"):
        return 8.0
    if not row.count:
        raise NotModelled("the source does not say how many chips")
    return float(row.count)


def per_chip(row: Published, stack: Stack | None = None) -> float:
    """Tokens per second and chip, of the kind that the metric names."""
    if row.phase == "pd-disagg":
        raise NotModelled("the source does not say how chips were split between prefill and decode")
    if "scenario" in row.batch:
        return _chosen(row, stack)
    if row.phase in ("prefill", "prefill-only"):
        return max(_prefilled(row, one) for one in setups(row, stack))
    if row.phase == "decode":
        return max(_decoded(row, one) for one in setups(row, stack))
    isl, osl = row.lengths()
    total = (isl + osl) / osl if row.metric.startswith("total") else 1.0
    setup = setups(row, stack)[0]
    if "concurrency" in row.batch:
        load = Load(concurrency=float(row.batch["concurrency"]), input_tokens=isl, output_tokens=osl)
        return float(aggregated(setup, load).output_tokens_per_s) * total / setup.plan.ranks
    found = _queued(row, setup, isl, osl)
    if found is None:
        raise InvalidPlan(f"{setup.model.name} does not fit {setup.plan.ranks} chips of {setup.machine.name}")
    return float(found.output_tokens_per_s) * total / setup.plan.ranks


def _queued(row: Published, setup: Setup, isl: float, osl: float) -> Saturated | None:
    """A full queue. TensorRT-LLM's benchmark sizes the step by its batch, and its queues are finite."""
    if not row.source.startswith("trtllm"):
        return offline(setup, input_tokens=isl, output_tokens=osl)
    most = most_sequences(setup, context=isl + osl, tokens=STEP_TOKENS[0])
    tokens = min(max(most * (1.0 + isl / osl), STEP_TOKENS[0], isl), STEP_TOKENS[1])
    sized = replace(setup, stack=replace(setup.stack, chunk_tokens=int(tokens)))
    return offline(sized, input_tokens=isl, output_tokens=osl, requests=queue(isl, osl))


def queue(isl: float, osl: float) -> float:
    """Requests of TensorRT-LLM's throughput runs: fewer, the longer they stay (table of its performance overview)."""
    length = isl + osl
    if length <= 256:
        return 30000.0
    if length > 20000:
        return 1000.0
    return 3000.0 if length <= 2500 else 1500.0


def _prefilled(row: Published, setup: Setup) -> float:
    """Prompt tokens per second and chip: the stated tokens per step, else the stack's chunk in each group."""
    isl, _ = row.lengths()
    each = float(row.batch.get("tokens_per_gpu", setup.stack.chunk_tokens / setup.plan.tp))
    tokens = max(each * setup.plan.tp, 1.0)
    length = min(isl, tokens)  # longer prompts come in chunks that attend to those before
    batch = prefill_batch(sequences=tokens / length, length=length, cached=(isl - length) / 2)
    return tokens * setup.plan.dp / float(step(setup, batch).seconds) / setup.plan.ranks


def _decoded(row: Published, setup: Setup) -> float:
    """Output tokens per second and chip: the stated batch, else the largest that fits."""
    plan = setup.plan
    isl, osl = row.lengths()
    if "batch_per_gpu" in row.batch:
        sequences = float(row.batch["batch_per_gpu"]) * plan.tp
    else:
        sequences = float(most_sequences(setup, context=isl + osl, tokens=0.0))
        if sequences == 0:
            raise InvalidPlan(f"{setup.model.name} does not fit {plan.ranks} chips of {setup.machine.name}")
    context = isl if osl <= 1 else isl + osl / 2
    seconds = float(step(setup, decode_batch(sequences=sequences, context=context)).seconds)
    return sequences * plan.dp * plan.tokens_per_step / seconds / plan.ranks


def _chosen(row: Published, given: Stack | None) -> float:
    """MLPerf leaves the layout to the submitter: the best legal plan inside the node, replicated over the system."""
    isl, osl = row.lengths()
    net, stack = row.net, given or stack_of(row)
    machine = machine_for(row.machine, 1)
    best = 0.0
    for plan in usual(net, machine, stack, formats(row, net, stack), "decode", 0):
        if plan.ranks > min(row.count, machine.ranks) or row.count % plan.ranks:
            continue
        if plan.dp > 1 and plan.ranks > 8:
            continue  # instances of at most eight: wider ones gain little once memory is not what binds
        try:
            setup = make(row, plan, net, stack)
            if row.batch["scenario"] == "Offline":
                found = offline(setup, input_tokens=isl, output_tokens=osl, spread=row.spread)
            else:
                found = limited(
                    setup,
                    input_tokens=isl,
                    output_tokens=osl,
                    spread=row.spread,
                    tpot_s=float(row.extra["slo_tpot_ms_p99"]) / 1e3,
                    ttft_s=float(row.extra["slo_ttft_ms_p99"]) / 1e3,
                )
        except InvalidPlan:
            continue
        if found is not None:
            rate = float(found.output_tokens_per_s)
            if row.spread:
                rate = _run_rate(row, setup, found)
            best = max(best, rate / plan.ranks)
    if best == 0.0:
        raise NotModelled(f"no plan inside one node of {machine.name} serves {net.name} within the limits")
    return best


def _run_rate(row: Published, setup: Setup, found: Saturated) -> float:
    """Tokens per second of a whole run at the batch limit that serves it best.

    LoadGen divides all tokens by the time until the last answer is complete, so the drain counts in every scenario.
    """
    isl, osl = row.lengths()
    data = section(RULES, "data_sets")[row.seq["dataset"]]
    requests = max(data["samples"] * setup.plan.ranks / row.count, RUN_S * float(found.output_tokens_per_s) / osl)
    return max(
        drained(
            setup,
            replace(found, sequences=max(float(found.sequences) / 2**halved, 1.0)),
            requests=requests,
            input_tokens=isl,
            output_tokens=osl,
            longest=data["longest"],
        )
        for halved in range(4)
    )


def _prompt_s(row: Published, stack: Stack | None) -> float:
    setup = setups(row, stack)[0]
    isl, _ = row.lengths()
    batch = prefill_batch(sequences=float(row.batch["batch"]), length=isl)
    return float(step(setup, batch).seconds)


def _step_s(row: Published, stack: Stack | None) -> float:
    setup = setups(row, stack)[0]
    isl, osl = row.lengths()
    return float(step(setup, decode_batch(sequences=float(row.batch["batch"]), context=isl + osl / 2)).seconds)


def _ttft_s(row: Published, stack: Stack | None) -> float:
    """One prompt alone, and its door where one is known; with prefill and decode apart ("1P1D"), the move of its cache
    and the first decode step."""
    if float(row.batch.get("concurrency", 1)) != 1:
        raise NotModelled("time to first token under load without arrival times")
    setup = setups(row, stack)[0]
    isl, _ = row.lengths()
    plan = setup.plan
    alone = prefill_batch(sequences=float(plan.pp), length=isl)  # a step shares its batch among the stages
    door_s = float(row.extra.get("door_s", 0.0)) + isl * float(row.extra.get("door_token_s", 0.0))
    seconds = float(step(setup, alone).seconds) + door_s
    if row.phase == "1P1D":
        cache = kv_cache_bytes(setup.model, isl, plan.quant.kv) / plan.tp
        move = Transfer(payload_bytes=cache, plane="rdma", distance=setup.machine.ranks)
        first = step(setup, decode_batch(sequences=1.0, context=isl)).seconds
        seconds += float(setup.price(move, 1.0, 1.0).seconds) + float(first)
    return seconds


def mixture(row: Published, setup: Setup) -> tuple[Batch, Batch, float]:
    """A closed loop's decode batch, one prompt of another request, and how many of those a mean step carries."""
    isl, osl = row.lengths()
    batch = row.batch
    concurrency = float(batch.get("avg_batch", batch.get("max_num_seqs", batch.get("batch", 0))))
    if not concurrency:
        raise NotModelled("the source does not say how many sequences were in flight")
    mine = concurrency / setup.plan.dp
    decode = decode_batch(sequences=mine, context=isl + osl / 2)
    return decode, prefill_batch(sequences=1.0, length=isl), mine / max(osl - 1.0, 1.0)


def _median_itl_s(row: Published, stack: Stack | None) -> float:
    """The median step: one without a prompt while fewer than half of the steps carry any.

    Prompts per step are Poisson with the mean that the closed loop needs; its median is about the mean less ln 2.
    """
    setup = setups(row, stack)[0]
    decode, prompt, mean = mixture(row, setup)
    seconds = float(step(setup, decode).seconds)
    median = max(mean - float(np.log(2.0)), 0.0)
    if median > 0.0:
        with_prompt = together(decode, scaled(prompt, median))
        seconds = float(step(setup, with_prompt).seconds)
    return seconds


def mean_step(row: Published, stack: Stack | None = None) -> tuple[Any, Machine, int]:
    """The priced step that stands for a row's run: decode with the prompts that a mean step carries."""
    setup = setups(row, stack)[0]
    decode, prompt, mean = mixture(row, setup)
    return step(setup, together(decode, scaled(prompt, mean))), setup.machine, setup.plan.ranks


def mean_activity(row: Published) -> tuple[Activity, Machine]:
    """How busy the chips of a row are on average, and the machine that they are part of."""
    timeline, machine, _ = mean_step(row)
    return activity(timeline, machine), machine


def average_power_w(row: Published) -> float:
    """Average power of all chips of a row; raises ``MissingFigure`` where the limit of one is not public."""
    timeline, machine, ranks = mean_step(row)
    if machine.chip.tdp_w is None:
        raise MissingFigure(machine.chip.name, "power.tdp")
    return float(step_power_w(timeline, machine, energy_fit(machine.chip.profile))) * (row.count or ranks)
