"""Which numbers of an answer are figures, and the band that each must have beside it."""

import math
import re

from taicang.catalog.trust import NINE_IN_TEN, UNVALIDATED

FIGURES = {
    "tpot_s": "tpot", "tpot_p99_s": "tpot", "ttft_s": "ttft", "ttft_p99_s": "ttft", "loaded_ttft_s": "ttft",
    "step_s": "tpot", "user_tokens_per_s": "tpot", "output_tokens_per_s": "throughput", "tokens_per_s": "throughput",
    "output_tokens_per_s_per_chip": "throughput", "tokens_per_s_per_chip": "throughput",
    "machine_output_tokens_per_s": "throughput", "requests_per_s": "throughput", "input_tokens_per_s": "throughput",
    "promised_tokens_per_s_per_chip": "throughput", "output_tokens_per_s_per_usd": "throughput",
    "output_tokens_per_s_per_cny": "throughput", "output_tokens_per_s_per_w": "power", "power_w_per_chip": "power",
    "power_w": "power", "tokens_per_j": "power", "output_tokens_per_j": "power", "energy_j": "power",
    "mfu_ratio": "mfu", "hfu_ratio": "mfu", "memory": "memory", "weights_bytes_per_rank": "memory",
    "cache_room_tokens": "memory", "instance_cache_room_tokens": "memory", "run_s": "days",
    "library_s": "library", "closed_s": "closed form", "goodput_tokens_per_s_per_chip": "throughput",
    "run.seconds": "days", "run.energy_j": "energy", "step.seconds": "step_time|tpot",
    "decode.step_s": "step_time|tpot", "prefill.step_s": "ttft", "prefill.step.seconds": "ttft",
    "memory.capacity_bytes": "memory",
}  # fmt: skip
"""Key, or key of a part -> its band."""
SPREAD = {"tpot", "itl", "ttft", "e2e", "queue"}
"""Parts that hold percentiles of what is called so."""
INNER = (
    "decode", "prefill", "step", "versus", "ttft", "tpot", "itl", "e2e", "queue", "summary", "losses", "models", "run",
    "explanation", "budgets", "found", "memory", "serving", "training", "loop",
)  # fmt: skip
"""Parts of an answer, whose figures the bands beside them are of."""
WITHIN = ("prefill.step",)
"""Parts that are told apart by what they are parts of."""
NAMED = ("budgets", "models")
"""Parts whose keys are names, of parts alike."""
PREDICTED = re.compile(
    r"(?<!bytes_per)(^|_)(s|j|w|seconds|predicted|mfu_ratio)$|(?<!bytes)_per_(s|j|w|usd|cny|chip|rank)$"
)
"""Times, rates, powers and energies: wherever they are, some band is above them, in words or numbers."""
BOUNDS = ("wire_s", "shuffled_s", "latency_s")
"""Seconds that links alone take: no library is faster, and none is said to be as fast."""
ASKED = ("plan", "recipe", "ask", "claim", "parts", "levels", "limits")
"""Parts that say what was asked, or what the machine has."""


def band_of(part, key):
    """Names of bands of which a figure has one; none where it is no figure."""
    named = part if part in SPREAD and key.endswith("_s") else FIGURES.get(f"{part}.{key}") or FIGURES.get(key, "")
    return set(named.split("|")) - {""}


def check(answer, above=frozenset(), *, part="", scope=False):
    """Every figure of ``answer`` has a band beside it, or beside what it is a part of; how many figures there are."""
    if isinstance(answer, list):
        return sum(check(each, above, part=part, scope=scope) for each in answer)
    if not isinstance(answer, dict):
        return 0
    told = dict.fromkeys(above)
    if isinstance(answer.get("bands"), dict):
        for name, each in answer["bands"].items():
            assert set(each) == {"verdict", "low_ratio", "high_ratio", "typical_ratio", "rows", "basis"}
            if each["verdict"] == NINE_IN_TEN:
                assert 0.0 < each["low_ratio"] < 1.0 < each["high_ratio"] < math.inf
                assert each["typical_ratio"] <= each["high_ratio"] - 1.0
            else:
                assert (each["verdict"], each["low_ratio"], each["rows"]) == (UNVALIDATED, None, 0)
            assert each["basis"]
            told[name] = each
    if str(answer.get("band")).startswith(UNVALIDATED):
        told |= dict.fromkeys(FIGURES.values())
    scope = scope or bool(told) or "unvalidated" in answer or {"low", "high"} <= answer.keys()
    found = 0
    for key, value in answer.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            named = band_of(part, key)
            assert not named or named & told.keys(), key
            counted = key == "predicted" and isinstance(value, int)  # rows that have a prediction
            assert scope or key in BOUNDS or counted or not PREDICTED.search(key), key
            found += bool(named)
        if key not in ("bands", *ASKED):
            inner = key in INNER or part in NAMED or isinstance(value, list)
            within = f"{part}.{key}" if f"{part}.{key}" in WITHIN else key
            found += check(value, frozenset(told) if inner else frozenset(), part=within, scope=scope)
    return found
