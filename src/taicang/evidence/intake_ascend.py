"""Ascend rows in files that a user brings: published serving results and reference times of forward steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from taicang.errors import InvalidInput, NotModelled, TaicangError
from taicang.evidence import ascend_serving, ascend_steps
from taicang.evidence.score import Outcome
from taicang.evidence.split import held_out

METRICS: Mapping[str, str] = {
    "tpot": "tpot",
    "layer_time": "layer_time",
    "output_tokens_per_s_per_chip": "throughput",
    "input_tokens_per_s_per_chip": "throughput",
}
"""Metric of the file -> of ``ascend_serving``."""
UNITS: Mapping[str, str] = {"us": "us", "ms": "ms", "tok/s/NPU": "tok/s", "tok/s": "tok/s"}


def is_ascend(row: Mapping[str, str]) -> bool:
    """Whether a published row was measured on Ascend."""
    return row.get("chip", "").lower().startswith("ascend")


def row_outcome(row: Mapping[str, str]) -> Outcome:
    """Outcome of one published serving row; ``count``, ``dp``, ``ep`` and batches count dies."""
    read = serving_row(row)
    return _outcome(
        name=row.get("id", ""),
        suite="ascend_layer" if row.get("metric") == "layer_time" else "ascend_serving",
        measured=row.get("value", ""),
        unit=row.get("unit", ""),
        held=row.get("role") != "calibration",
        predict=lambda: ascend_serving.figure(read()) * ascend_serving.SCALE[UNITS[row["unit"]]],
    )


def serving_row(row: Mapping[str, str]) -> Callable[[], ascend_serving.Row]:
    """The row as ``ascend_serving`` prices it; refuses other models and machines when called."""

    def read() -> ascend_serving.Row:
        plan, batch, seq = (json.loads(row[key] or "{}") for key in ("par", "batch", "seq"))
        if row["system"].lower() != ascend_serving.MACHINE or row["model"].lower() not in (
            "deepseek-r1",
            "deepseek-v3",
        ):
            raise NotModelled(f"published rows of {row['model']} on {row['system']}")
        if row["metric"] not in METRICS or row["unit"] not in UNITS:
            raise NotModelled(f"the metric {row['metric']} in {row['unit']} of a published row")
        return ascend_serving.Row(
            id=row["id"],
            held=row["role"] != "calibration",
            stack=row["sw"].replace(" ", "@"),
            phase=plan["phase"],
            metric=METRICS[row["metric"]],
            measured=float(row["value"]),
            unit=UNITS[row["unit"]],
            dies=int(row["count"]),
            redundant=int(plan.get("redundant_experts", 0)),
            shared_ranks=int(plan.get("shared_expert_ranks", 0)),
            drafts=int(plan.get("mtp", 0)),
            acceptance_ratio=float(plan.get("mtp_acceptance", 0.7)),
            batch=int(batch.get("batch_per_rank") or batch["tokens_per_rank"]),
            input_tokens=int(seq.get("isl") or seq["kv_len"]),
            output_tokens=int(seq.get("osl", 0)),
            kv_dtype="int8" if "KV INT8" in row["dtype"].upper() else "bf16",
        )

    return read


def step_outcomes(path: Path) -> list[Outcome]:
    """Outcomes of a YAML list of forward steps (``id``, ``step_time_ms_reference``, ``config``).

    Raises ``InvalidInput`` for a file that is none.
    """
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput(f"cannot read this file ({error})", where=str(path)) from None
    if not isinstance(listed, list) or not all(isinstance(each, dict) and "config" in each for each in listed):
        raise InvalidInput("expected a list of steps, each with 'id', 'config' and a reference time", where=str(path))
    return [_step(each) for each in listed]


def _step(each: Mapping[str, Any]) -> Outcome:
    name, config = str(each.get("id", "")), each["config"]

    def predict() -> float:
        ranks, tp = int(config.get("world_size", 1)), int(config.get("tp_size", 1))
        if int(config.get("pp_size", 1)) > 1:
            raise NotModelled("pipeline stages in reference steps")
        row = ascend_steps.Row(
            id=name,
            device=config["device"],
            net=config["model_id"],
            phase="decode" if config["decode"] else "prefill",
            queries=int(config["num_queries"]),
            query_len=int(config["query_len"]),
            context=int(config.get("context_length", 0)),
            linear=config.get("quantize_linear_action", "DISABLED"),
            attention=config.get("quantize_attention_action", "DISABLED"),
            drafts=int(config.get("num_mtp_tokens", 0)),
            ranks=ranks,
            tp=tp,
            dp=int(config.get("dp_size", ranks // tp)),
            ep=int(config.get("ep_size", 1)),
            image=f"{config['image_width']}x{config['image_height']}" if "image_height" in config else "",
            measured_s=1.0,
        )
        return ascend_steps.predict_s(row) * 1e3

    measured = str(each.get("step_time_ms_reference", ""))
    held = held_out("step_time", name)
    return _outcome(name=name, suite="ascend_steps", measured=measured, unit="ms", held=held, predict=predict)


def _outcome(*, name: str, suite: str, measured: str, unit: str, held: bool, predict: Callable[[], float]) -> Outcome:
    said, why = None, ""
    try:
        said = float(predict())
    except TaicangError as error:
        why = str(error)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        why = f"cannot read this row: {type(error).__name__} {error}"
    try:
        value = float(measured)
    except ValueError:
        value, said, why = math.nan, None, why or "the row states no measured value"
    return Outcome(
        id=name, suite=suite, group="ascend", measured=value, predicted=said, unit=unit, held_out=held, refused=why
    )
