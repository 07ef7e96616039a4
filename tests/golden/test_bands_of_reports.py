"""Public reports far from all fitted rows: the band holds the measured figure, or there is none."""

import json

import numpy as np
import pytest

from taicang.catalog.trust import UNVALIDATED

REPLAYS = {
    "tensor parallel over two nodes, one request": (
        "--closed-loop 1 --input 128 --output 1024 --requests 3 deepseek-r1 --tp 16 --ep 1 --moe-tp 16 --mtp 0 "
        "--stack sglang@0.4.6 --instances 1",
        "hgx-h100 x 2", "tpot", 23e-3,
    ),
    "experts sharded inside a node": (
        "--closed-loop 32 --input 1600 --output 600 --requests 128 deepseek-r1 --tp 8 --ep 1 --moe-tp 8 --mtp 0 "
        "--stack vllm@0.11.2 --instances 1",
        "hgx-h200", "ttft", 0.816,
    ),
    "expert parallel inside a node": (
        "--closed-loop 32 --input 1600 --output 600 --requests 128 deepseek-r1 --tp 8 --ep 8 --mtp 0 "
        "--stack vllm@0.11.2 --instances 1",
        "hgx-h200", "ttft", 0.816,
    ),
    "another engine on Ascend": (
        "--closed-loop 432 --input 3500 --output 1500 --requests 1296 qwen3-235b-a22b --tp 1 --dp 16 --ep 16 "
        "--quant int8 --mtp 3 --stack sglang --instances 1",
        "atlas-800i-a3", "tpot", 50e-3,
    ),
    "five drafts a step": (
        "--closed-loop 1 --input 8192 --output 1024 --requests 3 glm-5.2 --quant nvfp4 --tp 8 --ep 1 --moe-tp 8 "
        "--mtp 5 --acceptance 0.78 --stack sglang --instances 1",
        "hgx-b200", "tpot", 1.85e-3,
    ),
}  # fmt: skip
NEAR = {"another engine on Ascend": 0.1, "five drafts a step": 0.3}
"""Reports that are met without a band's help, too -> within which share."""


@pytest.mark.parametrize("name", REPLAYS)
def test_the_band_of_a_replay_holds_what_was_measured(name, taicang):
    words, machine, figure, measured_s = REPLAYS[name]
    code, out, err = taicang("replay", *words.split(), "--on", machine, "--json")
    assert code == 0, err
    found = json.loads(out)
    band, said_s = found["bands"][figure], found["summary"][figure]["mean_s"]
    if band["verdict"] != UNVALIDATED:
        assert band["low_ratio"] * said_s <= measured_s <= band["high_ratio"] * said_s
    assert abs(said_s / measured_s - 1) < NEAR.get(name, np.inf)


def test_an_engine_without_host_figures_says_so(taicang):
    """vLLM Ascend at one request: about three times what its kernels take, by reports on it and on a kindred model."""
    words = ("qwen3-30b-a3b", "--tp", "4", "--batch", "1", "--input", "15000", "--output", "500", "--json")
    _, out, _ = taicang("infer", *words, "--on", "atlas-800-a2-376t")
    found = json.loads(out)
    assert any("no host cost of vllm-ascend" in line for line in found["assumptions"])
    assert not any(line.startswith("host and launch costs of") for line in found["assumptions"])
    band = found["bands"]["tpot"]
    assert band["verdict"] == UNVALIDATED or band["high_ratio"] > 2.0
