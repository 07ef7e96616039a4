"""A latency predictor for SGLang's simulator (tools/sglang-simulator in its repository), by the name "taicang".

``install()`` before the simulator starts teaches it the name; ``configuration`` writes the file for
``--sim-config-path``. The simulator then runs SGLang's own scheduler and cache, and asks here what each step takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

from taicang.errors import InvalidInput, NotModelled
from taicang.plans import ServePlan, describe
from taicang.predict.steps import StepPredictor

NAME = "taicang"
OWN = ("name", "model", "on", "plan", "stack", "quant")
"""Keys of the configuration's "predictor"."""


class Scheduled(Protocol):
    """A request of a batch, as the simulator has it."""

    extend_length: int
    past_kv_length: int


class Batch(Protocol):
    """A batch, as the simulator has it."""

    reqs: list[Scheduled]


class TaicangTimePredictor:
    """The simulator's interface ``InferTimePredictor``: it is handed the model, the accelerator and the scheduler's
    configuration, of which the layout is read where ``plan`` is open."""

    def __init__(
        self, model: Any, hw: Any, config: Any, *, on: str, of: str = "", plan: str | None = None,
        stack: str | None = None, quant: str = "auto",
    ) -> None:  # fmt: skip
        self.model, self.hw, self.config = model, hw, config
        laid = plan or _layout(config)
        self._predict = StepPredictor(of or str(model.model_path), on, laid, stack, quant=quant)
        self._steps = self._full = 0

    def predict_infer_time(self, batch: Batch) -> float:
        """Seconds of one step; negative, as the interface says it, where the requests are more than the cache holds."""
        extend = [request.extend_length for request in batch.reqs]
        past = [request.past_kv_length for request in batch.reqs]
        seconds = self._predict.seconds(extend, past)
        self._steps += 1
        if sum(extend) + sum(past) > self._predict.cache_tokens:
            self._full += 1
            return -seconds
        return seconds

    def get_metrics(self) -> dict[str, int]:
        """Steps since the last reset, and those that did not fit."""
        return {"taicang_steps": self._steps, "taicang_steps_beyond_cache": self._full}

    def reset_metrics(self) -> None:
        """Count anew."""
        self._steps = self._full = 0


def _layout(config: Any) -> ServePlan:
    """SGLang's counts: ``tp_size`` ranks in all, of which ``dp_size`` groups attend, and ``ep_size`` share experts."""
    tp, dp, ep, pp = (int(getattr(config, f"{name}_size", None) or 1) for name in ("tp", "dp", "ep", "pp"))
    if tp % dp or tp % ep:
        raise InvalidInput(f"{tp} tensor-parallel ranks do not divide into {dp} groups, or {ep} of experts",
                           where="scheduler")  # fmt: skip
    return ServePlan(tp=tp // dp, dp=dp, pp=pp, ep=ep, moe_tp=tp // ep)


def from_configuration(wanted: Mapping[str, Any], model: Any, hw: Any, config: Any) -> TaicangTimePredictor:
    """The predictor of a configuration's "predictor". Raises ``InvalidInput`` for a key that is unknown or missing."""
    unknown = sorted(set(wanted) - set(OWN))
    if unknown:
        raise InvalidInput(f"unknown key {unknown[0]!r}; one of {', '.join(OWN)}", where="predictor")
    if not wanted.get("on"):
        raise InvalidInput("needs 'on', a machine such as \"hgx-h20\"", where="predictor")
    return TaicangTimePredictor(
        model, hw, config, on=wanted["on"], of=wanted.get("model", ""), plan=wanted.get("plan"),
        stack=wanted.get("stack"), quant=wanted.get("quant", "auto"),
    )  # fmt: skip


def install() -> None:
    """Teach the simulator the predictor "taicang". Raises ``NotModelled`` where it is not installed."""
    try:
        manager: Any = import_module("sglang_simulator.simulation.manager.config").ConfigManager
        base: Any = import_module("sglang_simulator.time_predictor.base").InferTimePredictor
    except ImportError:
        raise NotModelled("needs SGLang's simulator: pip install -e tools/sglang-simulator of its repository") from None
    known = manager.get_inference_time_predictor
    base.register(TaicangTimePredictor)

    def chosen(cls: Any, model: Any, hw: Any, sched_config: Any) -> Any:
        wanted = cls._get_raw_config().get("predictor", {})
        if wanted.get("name") != NAME:
            return known(model, hw, sched_config)
        return from_configuration(wanted, model, hw, sched_config)

    manager.get_inference_time_predictor = classmethod(chosen)


def configuration(model: str, on: str, plan: str, stack: str | None = None) -> dict[str, Any]:
    """A configuration of the simulator for ``model`` on ``on``: its platform, predictor and layout."""
    predictor = StepPredictor(model, on, plan, stack)
    laid, chip, quant = predictor.setup.plan, predictor.setup.machine.chip, predictor.setup.plan.quant
    host = predictor.setup.machine.planes.get("host")
    host_gb = {} if host is None else {
        f"memory_{way}_bandwidth_gb": host.levels[0].bandwidth_bytes_per_s / 1e9 for way in ("read", "write")
    }  # fmt: skip
    return {
        "platform": {
            "accelerator": {
                "name": chip.name,
                "hbm_capacity_gb": chip.memory.capacity_bytes / 1e9,
                "hbm_bandwidth_gb": chip.memory.bandwidth_bytes_per_s / 1e9,
            },
            "num_device_per_node": predictor.setup.machine.chips_per_node * chip.dies,
            **host_gb,
        },
        "predictor": {"name": NAME, "model": model, "on": on, "plan": describe(laid),
                      "stack": predictor.setup.stack.name},
        "scheduler": {
            "tp_size": int(laid.tp * laid.dp), "dp_size": int(laid.dp), "ep_size": int(laid.ep),
            "pp_size": int(laid.pp), "kv_cache_data_type": FORMS.get(str(quant.kv), "BF16"),
            "backend_name": "sglang", "max_total_tokens": predictor.cache_tokens,
        },
    }  # fmt: skip


FORMS = {"bf16": "BF16", "fp8": "FP8", "fp8_block": "FP8", "int8": "INT8"}
"""Names of number formats there."""
