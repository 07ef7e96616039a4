"""Programs of DeepSpeed and Megatron-LM, whose packages need no compiler to install."""

import re

import pytest
from running import PROGRAMS, TORCH, needs, run

pytestmark = TORCH


@needs("deepspeed")
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("on", ["hgx-h100", "cloudmatrix384"])
def test_deepspeed_s_stages(on, stage):
    made = run("--on", on, "--world", 8, PROGRAMS / "deepspeeds.py", "--stage", stage)
    assert f"trained {stage}" in made["said"]
    weights = 2 * (12 * 1024**2 + 13 * 1024)
    moved = made["ranks"][0]["collective_bytes"]
    gathered = sum(size for name, size in moved.items() if name.startswith("all_gather"))
    # stages 1 and 2 gather the 16-bit weights once a step, 3 for each pass
    assert gathered >= 2 * weights * (2 if stage == 3 else 1)


@needs("deepspeed")
def test_a_hundred_layers_of_bloom_do_not_fit_as_they_did_not():
    first = [
        "--layers",
        16,
        "--hidden",
        12288,
        "--heads",
        64,
        "--cut",
        4,
        "--seq",
        2048,
        "--flying",
        6,
        "--vocab",
        250880,
    ]
    made = run("--on", "hgx-a100 x 2", "--world", 16, PROGRAMS / "deepspeeds.py", *first, status=1)
    assert "out of memory. Tried to allocate" in made["failure"]


@needs("megatron")
def test_what_a_stage_held_on_a_910b():
    size = ["--layers", 32, "--hidden", 4096, "--inner", 11008, "--heads", 32, "--vocab", 32000, "--seq", 4096]
    made = run("--on", "atlas-800-a2-313t", "--ranks", "0,1", PROGRAMS / "mcore.py", "--pp", 8, "--tp", 1, *size)
    held = sorted(float(each) for each in re.findall(r"holds (\S+) GB", made["said"]))
    assert held == pytest.approx([14.6, 16.9], rel=0.01)  # as logged: of a later stage, and of the first


@needs("megatron")
@pytest.mark.parametrize("on", ["hgx-h100", "cloudmatrix384"])
def test_megatron_s_own_model(on):
    made = run("--on", on, "--world", 8, PROGRAMS / "mcore.py")
    assert "trained" in made["said"]
    moved = made["ranks"][0]["collective_bytes"]
    groups = {name.partition(" ")[2] for name in moved}
    assert len(groups) >= 2, moved  # of tensor parallelism, and of data
