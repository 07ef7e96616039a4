"""Programs as their users write them, on virtual devices: the same work under both names, sizes that can be counted."""

import json
import re

import pytest
from running import MACHINES, PROGRAMS, TORCH, call, named_npu, needs, run, work

pytestmark = TORCH


HF = ("transformers", "accelerate")
EVERY = {
    "data parallel, mixed precision": ("ddp.py", 8, ["--layers", 2, "--steps", 2], ()),
    "FSDP2 with tensor and pipeline parallel": ("llama.py", 8, ["--tp", 2, "--pp", 2, "--layers", 2, "--micro", 2], ()),
    "experts among ranks": ("moe.py", 8, [], ()),
    "Trainer": ("trainer.py", 1, ["{folder}"], HF),
    "Trainer with LoRA": ("trainer.py", 1, ["{folder}", "--lora"], (*HF, "peft")),
    "accelerate with FSDP2": ("accelerated.py", 8, [], HF),
    "DeepSeek-V3": ("deepseek.py", 1, [], HF[:1]),
    "diffusion": ("diffusion.py", 1, [], ("diffusers",)),
    "generation": ("generate.py", 1, [], HF[:1]),
    "layers of four bits": ("quantised.py", 1, [], ()),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_program_does_the_same_work_under_both_names_on_every_machine(name, tmp_path):
    program, world, options, libraries = EVERY[name]
    for library in libraries:
        pytest.importorskip(library)
    options = [str(each).format(folder=tmp_path) for each in options]
    found = []
    for at, machine in enumerate(MACHINES):
        path = PROGRAMS / program if at % 2 else named_npu(PROGRAMS / program, tmp_path)
        made = run("--on", machine, "--world", world, path, *options)
        assert made["ranks"][0]["whole_s"] > 0
        found.append([sorted(work(rank)) for rank in made["ranks"]])
    assert found[0] == found[1] == found[2] == found[3]


def test_ddp_reduces_every_gradient_once():
    made = run("--on", "cloudmatrix384", "--world", "16", PROGRAMS / "ddp.py", "--layers", "4", "--steps", "2")
    # a layer has 12 h^2 + 13 h, the head is tied; gradients are fp32
    parameters = 4 * (12 * 768**2 + 13 * 768) + (50304 + 1024 + 2) * 768
    assert made["ranks"][0]["collective_bytes"]["all_reduce world"] == 4 * parameters
    assert re.search(r"step 1: loss .*, \d+\.\d\d ms", made["said"])


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
    assert halved["ranks"][0]["flop"] == pytest.approx(alone["ranks"][0]["flop"] / 2, rel=1e-9)
    assert {"all_gather mesh_tp", "reduce_scatter mesh_tp"} <= set(halved["ranks"][0]["collective_bytes"])


def test_experts_exchange_tokens():
    made = run("--on", "cloudmatrix384", "--world", "8", PROGRAMS / "moe.py")
    # tokens go out and come back, and back again as gradients (the input wants none), six experts each
    whole = 3 * 4 * 1024 * 6 * 2048 * 2
    assert made["ranks"][0]["collective_bytes"]["all_to_all world"] == pytest.approx(whole, rel=0.001)
    assert any("router" in what for what in made["invented"])


@needs("transformers", "accelerate")
def test_trainer_recomputes_where_it_is_told(tmp_path):
    made = run("--on", "atlas-800-a2", "--world", "1", PROGRAMS / "trainer.py", tmp_path, "--recompute")
    assert any(line["phase"] == "recompute" for line in made["ranks"][0]["lines"])


@needs("transformers")
def test_generate():
    made = run("--on", "hgx-h100", "--world", "1", PROGRAMS / "generate.py")
    assert "(2, 520)" in made["said"]
    assert made["ranks"][0]["host_s"] > 0


def test_functional_mode_computes_what_one_device_does():
    words = ["--on", "hgx-h100", "--ranks", "all", "--functional"]
    losses = [
        [float(each) for each in re.findall(r"loss (\S+)", run(*words, *more)["said"])]
        for more in (
            ("--world", 1, PROGRAMS / "parity.py"),
            ("--world", 2, PROGRAMS / "parity.py"),
            ("--world", 2, PROGRAMS / "parity.py", "--sharded"),
        )
    ]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    assert losses[2] == pytest.approx(losses[0], rel=1e-9)


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


def test_ascend_s_operators_that_communicate():
    made = run("--on", "cloudmatrix384", "--world", "32", PROGRAMS / "mc2.py")
    moved = made["ranks"][0]["collective_bytes"]
    assert moved["all_reduce world"] == 64 * 7168 * 2
    lines = {line["name"]: line for line in made["ranks"][0]["lines"]}
    assert lines["dispatch"]["seconds"] > 0
    assert lines["combine"]["seconds"] > 0
    # 64 tokens of 32 ranks with eight experts each, 8 of 256 experts here: 512 rows, not the buffer's 16,384
    assert lines["npu_grouped_matmul"]["flop"] == 2 * 512 * 7168 * 2048 * 3


def test_layers_of_four_bits_hold_four_bits():
    said = run("--on", "hgx-h100", "--world", "1", PROGRAMS / "quantised.py")["said"]
    count = 4096 * 4096
    held = count * 2 + count // 2 + count // 64 * 4 + 2 * (count + count // 256 * 4)
    assert int(re.search(r"held (\d+)", said).group(1)) == held


def test_a_graph_is_replayed_for_one_launch(tmp_path):
    path = tmp_path / "graph.py"
    path.write_text("""import torch
model = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(20)]).cuda()
x = torch.randn(16, 256, device="cuda")
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    model(x)
a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
a.record()
for _ in range(10):
    graph.replay()
b.record()
torch.cuda.synchronize()
print("replays", a.elapsed_time(b))
a.record()
for _ in range(10):
    model(x)
b.record()
torch.cuda.synchronize()
print("eager", a.elapsed_time(b))
""")
    made = run("--on", "hgx-h100", "--world", "1", "--host-issue", "30us", path)
    replays, eager = (float(re.search(rf"{name} (\S+)", made["said"]).group(1)) for name in ("replays", "eager"))
    assert eager == pytest.approx(10 * 20 * 0.030, rel=0.1)  # the host issues one layer every 30 us
    assert replays < eager / 2
    assert {line["name"]: line["launches"] for line in made["ranks"][0]["lines"]}["addmm"] == 2 * 10 * 20


def test_checkpoints_have_their_size_and_take_their_time(tmp_path):
    path = tmp_path / "save.py"
    path.write_text("""import os, sys, time
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.fsdp import fully_shard
dist.init_process_group("nccl")
model = torch.nn.Linear(32768, 32768, bias=False, device="cuda")
began = time.time()
torch.save({"model": model.state_dict(), "step": 3}, sys.argv[1] + "/model.pt")
print("seconds", time.time() - began)
fully_shard(model)
dcp.save({"model": model.state_dict()}, checkpoint_id=sys.argv[1] + "/dcp")
print("files", os.path.getsize(sys.argv[1] + "/model.pt"), os.path.getsize(sys.argv[1] + "/dcp/__0_0.distcp"))
print("step", torch.load(sys.argv[1] + "/model.pt", mmap=True)["step"])
""")
    said = run("--on", "hgx-h100", "--world", "8", path, tmp_path)["said"]
    whole = 32768 * 32768 * 4
    assert float(re.search(r"seconds (\S+)", said).group(1)) == pytest.approx(whole / 0.25e9, rel=0.05)
    sizes = [int(each) for each in re.search(r"files (\d+) (\d+)", said).groups()]
    assert sizes == pytest.approx([whole, whole / 8], rel=0.01)
    assert "step 3" in said
    assert (tmp_path / "model.pt").stat().st_blocks * 512 < whole / 100
