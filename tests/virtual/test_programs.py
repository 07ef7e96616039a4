"""Programs as their users write them, on virtual devices: the same work under both names, sizes that can be counted."""

import json
import re

import pytest
from running import MACHINES, PROGRAMS, TORCH, call, named_npu, needs, run, work

pytestmark = TORCH


def test_ddp_under_both_names_is_the_same_work(tmp_path):
    words = ["--on", "cloudmatrix384", "--world", "16"]
    cuda = run(*words, PROGRAMS / "ddp.py", "--layers", "4", "--steps", "2")
    npu = run(*words, named_npu(PROGRAMS / "ddp.py", tmp_path), "--layers", "4", "--steps", "2")
    assert work(cuda["ranks"][0]) == work(npu["ranks"][0])
    assert cuda["step_s"] == npu["step_s"]
    # a layer has 12 h^2 + 13 h, the head is tied; gradients are fp32
    parameters = 4 * (12 * 768**2 + 13 * 768) + (50304 + 1024 + 2) * 768
    assert cuda["ranks"][0]["collective_bytes"]["all_reduce world"] == 4 * parameters
    assert re.search(r"step 1: loss .*, \d+\.\d\d ms", cuda["said"])


def test_fsdp2_among_384_ranks_agrees_with_train(tmp_path):
    size = ["--hidden", 4096, "--inter", 14336, "--layers", 32, "--heads", 32, "--kv-heads", 8, "--vocab", 128256]
    out = tmp_path / "run"
    made = run(
        "--on", "hgx-h100 x 48", "--out", out, PROGRAMS / "llama.py", *size, "--seq", 8192, "--keep", "recompute"
    )
    plan = ["--zero", "fsdp2", "--global-batch", "384", "--seq", "8192", "--recompute", "full", "--json"]
    trained = json.loads(call("train", "llama-3.1-8b", "--on", "hgx-h100 x 48", *plan).stdout)["prediction"]
    rank = made["ranks"][0]
    assert rank["flop"] == pytest.approx(trained["step"]["flop"] / 384, rel=0.01)
    parameters = 8_030_261_248
    assert rank["collective_bytes"]["reduce_scatter world"] == pytest.approx(4 * parameters, rel=0.03)
    # the program's loss and norms are not fused: it is slower, and not by much
    assert trained["step"]["seconds"] < made["step_s"] < 1.15 * trained["step"]["seconds"]
    again = json.loads(call("reprice", out, "--on", "hgx-h100 x 48,cloudmatrix384", "--json").stdout)["runs"]
    assert again[0]["step_s"] == made["step_s"]
    assert again[1]["ranks"][0]["flop"] == rank["flop"]


def test_pipeline_stages_call_for_each_other():
    made = run("--on", "hgx-h100", PROGRAMS / "llama.py", "--pp", "2")
    assert [each["rank"] for each in made["ranks"]] == [0, 4]
    assert all(each["collective_bytes"]["send pair"] > 0 for each in made["ranks"])


def test_tensor_parallel_halves_the_products():
    alone = run("--on", "hgx-h100", "--world", "4", PROGRAMS / "llama.py")
    halved = run("--on", "hgx-h100", "--world", "4", PROGRAMS / "llama.py", "--tp", "2")
    head = 6 * 1024 * 32000 * 1024
    assert halved["ranks"][0]["flop"] - head == pytest.approx((alone["ranks"][0]["flop"] - head) / 2, rel=1e-9)
    assert "all_reduce mesh_tp" in halved["ranks"][0]["collective_bytes"]


def test_experts_exchange_tokens():
    made = run("--on", "cloudmatrix384", "--world", "8", PROGRAMS / "moe.py")
    # tokens go out and come back, and back again as gradients (the input wants none), six experts each
    whole = 3 * 4 * 1024 * 6 * 2048 * 2
    assert made["ranks"][0]["collective_bytes"]["all_to_all world"] == pytest.approx(whole, rel=0.001)
    assert any("router" in what for what in made["invented"])


@needs("transformers", "accelerate", "peft")
@pytest.mark.parametrize("options", [[], ["--lora"], ["--recompute"]])
def test_trainer(options, tmp_path):
    made = run("--on", "atlas-800-a2", "--world", "1", PROGRAMS / "trainer.py", tmp_path, *options)
    assert made["ranks"][0]["steps_s"]
    assert any(line["phase"] == "recompute" for line in made["ranks"][0]["lines"]) == ("--recompute" in options)


@needs("transformers", "accelerate")
def test_accelerate_with_fsdp2():
    made = run("--on", "cloudmatrix384", "--world", "8", PROGRAMS / "accelerated.py")
    assert len(made["ranks"][0]["steps_s"]) == 2
    assert made["ranks"][0]["collective_bytes"]["reduce_scatter world"] > 0


@needs("transformers")
@pytest.mark.parametrize("machine", MACHINES)
def test_generate(machine):
    made = run("--on", machine, "--world", "1", PROGRAMS / "generate.py")
    assert "(2, 520)" in made["said"]
    assert made["ranks"][0]["host_s"] > 0


@needs("diffusers")
def test_diffusion_step():
    made = run("--on", "gb200-nvl72", "--world", "1", PROGRAMS / "diffusion.py")
    assert len(made["ranks"][0]["steps_s"]) == 2


def test_functional_mode_computes_what_one_device_does():
    losses = [
        re.findall(r"loss (\S+)", run("--on", "hgx-h100", "--world", ranks, "--ranks", "all", "--functional",
                                      PROGRAMS / "parity.py")["said"])
        for ranks in (1, 2)
    ]  # fmt: skip
    assert len(losses[0]) == 4
    assert [float(each) for each in losses[0]] == pytest.approx([float(each) for each in losses[1]], rel=1e-9)


def test_out_of_memory_comes_where_it_would(tmp_path):
    made = run("--on", "cloudmatrix384", "--world", "1", PROGRAMS / "ddp.py", "--batch", "64", status=1)
    assert "NPU out of memory. Tried to allocate" in made["failure"]
    path = tmp_path / "caught.py"
    path.write_text(
        "import torch\n"
        "try:\n    torch.empty(200 << 30, device='cuda')\n"
        "except torch.cuda.OutOfMemoryError:\n    print('caught')\n"
    )
    assert "caught" in run("--on", "hgx-h100", "--world", "1", path)["said"]


def test_the_machine_s_time(tmp_path):
    path = tmp_path / "clock.py"
    path.write_text(
        "import time, torch\n"
        "x = torch.randn(8192, 8192, device='cuda', dtype=torch.bfloat16)\n"
        "a, b = (torch.cuda.Event(enable_timing=True) for _ in range(2))\n"
        "torch.cuda.synchronize(); t = time.perf_counter(); a.record()\n"
        "for _ in range(10): y = x @ x\n"
        "b.record(); torch.cuda.synchronize()\n"
        "print('ms', a.elapsed_time(b), (time.perf_counter() - t) * 1e3)\n"
    )
    event, host = (
        float(each)
        for each in re.search(r"ms (\S+) (\S+)", run("--on", "hgx-h100", "--world", "1", path)["said"]).groups()
    )
    assert event == pytest.approx(host, rel=0.02)
    assert 0.4 * 989e12 < 10 * 2 * 8192**3 / (event / 1e3) < 989e12


def test_errors_of_the_program_come_through(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("import torch\nx = torch.ones(3, 4, device='cuda') @ torch.ones(3, 4, device='cuda')\n")
    done = call("run", "--on", "hgx-h100", "--world", "1", path)
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr
    assert 'wrong.py", line 2' in done.stderr


def test_doctor():
    done = call("doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["well"]
