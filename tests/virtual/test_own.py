"""What programs bring themselves: operators, kernels of Triton, masks as functions, exchanges of their own making."""

import json
import re

import pytest
from running import PROGRAMS, TORCH, call, named_npu, run

pytestmark = TORCH


def test_every_collective_delivers_what_was_sent():
    many = 3
    said = run("--on", "hgx-h100", "--world", many, "--ranks", "all", "--functional", PROGRAMS / "exchanges.py")["said"]
    found = {int(r): json.loads(each) for r, each in re.findall(r"got (\d): (\[.*\])", said)}
    for rank in range(many):
        wanted = [rank + 1] * 3 + [n for i in range(many) for n in (i, rank)]
        wanted += [2 * rank + half + 10 * i for i in range(many) for half in range(2)]
        wanted += [i for i in range(many) for _ in range(2)] if rank == 0 else []
        assert found[rank] == wanted + [2] * 2 + [(rank - 1) % many] * 2 + [many * (2 * rank + half) for half in (0, 1)]


def test_a_step_of_a_ring_is_a_message_to_a_neighbour(tmp_path):
    run("--on", "hgx-h100", "--world", 4, "--out", tmp_path / "run", PROGRAMS / "context.py", "alltoall")
    table = json.loads((tmp_path / "run" / "rank-0.json").read_text())["kernels"]
    moved = [each["op"] for each in table if each["name"] == "all_to_all"]
    assert moved
    assert all(op["kind_of_operator"] == "Transfer" and op["distance"] in (1, 3) for op in moved)


def test_all_of_a_small_ring_run_as_soon_as_two_of_it_meet(tmp_path):
    path = tmp_path / "ring.py"
    path.write_text("""import torch
import torch.distributed as dist
dist.init_process_group("nccl")
rank, many = dist.get_rank(), dist.get_world_size()
print("begun", rank)
x, y = torch.full((4,), rank, device="cuda"), torch.empty(4, dtype=torch.int64, device="cuda")
ops = [dist.P2POp(dist.isend, x, (rank + 1) % many), dist.P2POp(dist.irecv, y, (rank - 1) % many)]
for work in dist.batch_isend_irecv(ops):
    work.wait()
print("got", rank, y[0].item())
""")
    said = run("--on", "hgx-h100", "--world", "4", path)["said"]
    assert sorted(re.findall(r"got (\d) (\d)", said)) == [(str(at), str((at - 1) % 4)) for at in range(4)]
    assert said.count("begun") == 1 + 4


@pytest.mark.parametrize("ranks", ["reps", "0,1"])
def test_ranks_that_a_program_starts_itself(ranks, tmp_path):
    path = tmp_path / "starts.py"
    path.write_text("""import torch
import torch.distributed as dist
import torch.multiprocessing as mp
def train(rank, many):
    dist.init_process_group("nccl", init_method="tcp://localhost:29517", rank=rank, world_size=many)
    torch.cuda.set_device(rank)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64).cuda())
    model(torch.randn(8, 64, device="cuda")).sum().backward()
    dist.destroy_process_group()
if __name__ == "__main__":
    mp.set_start_method("spawn", force=True)
    many = torch.cuda.device_count()
    started = [mp.Process(target=train, args=(rank, many)) for rank in range(many)]
    [each.start() for each in started]
    [each.join() for each in started]
    print("ended", [each.exitcode for each in started])
""")
    made = run("--on", "hgx-h100", "--ranks", ranks, path)
    assert made["said"].count(str([0] * 8)) == len(made["ranks"]) == (1 if ranks == "reps" else 2)
    assert all(rank["collective_bytes"]["all_reduce world"] == 4 * (64 * 64 + 64) for rank in made["ranks"])


OWN = """import torch
@torch.library.custom_op("mine::attend", mutates_args=())
def attend(q: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
    q @ q.T
    raise RuntimeError("needs its kernel")
@attend.register_fake
def _(q, cache):
    return torch.empty_like(q)
@torch.library.custom_op("mine::linear", mutates_args=())
def linear(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x @ w
q, cache = torch.randn(8, 2048, device="cuda"), torch.zeros(1 << 20, device="cuda")
print("shape", tuple(attend(q, cache).shape), tuple(linear(q, torch.randn(2048, 64, device="cuda")).shape))
"""


def test_operators_of_the_program_run_as_composed_or_are_one_kernel(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    made = run("--on", "hgx-h100", "--world", "1", path)
    assert "shape (8, 2048) (8, 64)" in made["said"]
    lines = {line["name"]: line for line in made["ranks"][0]["lines"]}
    assert lines["attend"]["launches"] == lines["mm"]["launches"] == 1  # what it had begun does not count
    assert lines["mm"]["flop"] == 2 * 8 * 2048 * 64
    assert lines["attend"]["seconds"] > 4 * (1 << 20) / 3.35e12
    assert any("mine::attend: one kernel" in note for note in made["notes"])


def test_kernels_of_triton_are_refused_by_name(tmp_path):
    place = tmp_path / "triton" / "runtime"
    place.mkdir(parents=True)
    for folder in (place, place.parent):
        (folder / "__init__.py").write_text("")
    (place / "jit.py").write_text("class JITFunction:\n    def __init__(self, fn):\n        self.fn = fn\n")
    path = tmp_path / "program.py"
    path.write_text("from triton.runtime.jit import JITFunction\ndef add(): ...\nJITFunction(add).run(grid=(1,))\n")
    done = call("run", "--on", "hgx-h100", "--world", "1", path)
    assert done.returncode == 2
    assert "kernel add is launched past PyTorch's dispatcher" in done.stderr
    assert "register_fake" in done.stderr


def test_attention_with_a_mask_costs_the_blocks_that_it_has():
    flop = {
        name: run("--on", "hgx-h100", "--world", "1", PROGRAMS / "flexible.py", name)["ranks"][0]["flop"]
        for name in ("none", "causal", "documents")
    }
    assert flop["none"] == pytest.approx(3 * 4 * 2 * 16 * 4096**2 * 128)
    blocks = 4096 // 128
    assert flop["causal"] / flop["none"] == pytest.approx((blocks + 1) / 2 / blocks)
    assert flop["documents"] / flop["none"] == pytest.approx((blocks // 4 + 1) / 2 / blocks)


def test_what_was_saved_is_loaded_by_the_rank_that_runs(tmp_path):
    path = tmp_path / "resume.py"
    path.write_text("""import sys, torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
dist.init_process_group("nccl")
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64)).cuda()
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model(torch.randn(8, 64, device="cuda")).sum().backward()
optimizer.step()
for move in (dcp.save, dcp.load):
    state, moments = get_state_dict(model, optimizer)
    move({"model": state, "optimizer": moments}, checkpoint_id=sys.argv[1])
set_state_dict(model, optimizer, model_state_dict=state, optim_state_dict=moments)
print("loaded", len(state))
print("compiler", "torch._dynamo" in sys.modules)
torch._dynamo.reset()
print("compiler", torch._dynamo.config.cache_size_limit > 0)
""")
    said = run("--on", "hgx-h100", "--world", 8, path, tmp_path / "kept")["said"]
    assert "loaded 4" in said
    assert re.findall("compiler (\\w+)", said)[-1] == "True"


@pytest.mark.parametrize("way", ["tensor", "pipeline", "expert", "context"])
def test_a_parallel_program_computes_the_loss_of_one_device(way):
    losses = [
        [float(each) for each in re.findall(r"loss (\S+)", run(
            "--on", "hgx-h100", "--world", many, "--ranks", "all", "--functional", PROGRAMS / "ways.py", way
        )["said"])]
        for many in (1, 2)
    ]  # fmt: skip
    assert len(losses[0]) == 3
    assert losses[0][2] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def face(way, on="hgx-h100", program=PROGRAMS / "faces.py"):
    made = run("--on", on, "--world", "1", program, way)
    assert "done" in made["said"]
    return made, {(line["name"], line["phase"]): line for line in made["ranks"][0]["lines"]}


@pytest.mark.parametrize("on", ["hgx-h100", "cloudmatrix384"])
def test_libraries_that_need_a_device_have_faces(on, tmp_path):
    program = named_npu(PROGRAMS / "faces.py", tmp_path) if on == "cloudmatrix384" else PROGRAMS / "faces.py"
    for way in ("low", "plain"):
        made, lines = face(way, on, program)
        tokens, width = 2 * 256, 512
        products = 3 * 2 * tokens * width * (3 * width + width + 3 * 4 * width)
        name = "_scaled_mm" if way == "low" else "mm"
        assert lines[name, "forward"]["launches"] == 4
        found = lines[name, "forward"]["flop"] + lines[name, "backward"]["flop"]
        assert found in (products, products - 2 * tokens * width * 3 * width)  # the input's gradient is not asked for
        attention = 4 * 2 * 8 * 64 * 256 * 257 / 2 * 3
        assert made["ranks"][0]["flop"] == pytest.approx(found + attention)
    made, lines = face("lengths", on, program)
    assert "padded (4, 256, 512) 256 868" in made["said"]
    pairs = (3 * 256 * 257 / 2 + 100 * 101 / 2) + (256 * 64 - 63 * 64 / 2) + 101 + (100 * 101 + 156 * 157) / 2
    assert lines["attention", "forward"]["flop"] == pytest.approx(4 * 512 * pairs)
    made, lines = face("losses", on, program)
    assert int(re.search(r"peak (\d+)", made["said"])[1]) < 4000 * 512 * 2 * 5  # no logits of 600 rows
    face("scaled", on, program)


def test_what_a_face_lacks_is_refused_by_name(tmp_path):
    done = call("run", "--on", "hgx-h100", "--world", "1", PROGRAMS / "faces.py", "refused")
    assert done.returncode == 2
    assert "transformer_engine.pytorch.MultiheadAttention: its kernels need a real device" in done.stderr
    (tmp_path / "kernels.py").write_text("import triton\n@triton.jit\ndef softmax(x): ...\n")
    path = tmp_path / "program.py"  # another file of the program imports it
    path.write_text("import torch, kernels\nkernels.softmax[(64,)](torch.ones(8, device='cuda'))\n")
    done = call("run", "--on", "hgx-h100", "--world", "1", path)
    assert "kernel softmax is launched past PyTorch's dispatcher" in done.stderr


def test_older_ways_of_data_parallelism(tmp_path):
    path = tmp_path / "older.py"
    path.write_text("""import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel
model = DataParallel(torch.nn.Linear(64, 64)).cuda()
model(torch.randn(16, 64)).sum().backward()
assert model.module.weight.grad is not None
there = torch.nn.Linear(64, 8).to("cuda:1")(torch.randn(4, 64, device="cuda:1"))
assert there.device == torch.device("cuda:1"), there.device
torch.distributed.init_process_group("nccl")
class Half(torch.nn.ModuleList):
    def forward(self, x):
        return self[0](x)
model = DistributedDataParallel(Half(torch.nn.Linear(8, 8) for _ in range(2)).cuda(), find_unused_parameters=True)
model(torch.randn(4, 8, device="cuda")).sum().backward()
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP, StateDictType
model = FSDP(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 4)).cuda(), use_orig_params=True)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.randn(4, 64, device="cuda")).sum().backward()
optimizer.step()
for kind in (StateDictType.FULL_STATE_DICT, StateDictType.SHARDED_STATE_DICT):
    with FSDP.state_dict_type(model, kind):
        state = FSDP.optim_state_dict(model, optimizer)
        optimizer.load_state_dict(FSDP.optim_state_dict_to_load(model, optimizer, state))
print("states", {name: tuple(each["exp_avg"].shape) for name, each in state["state"].items()})
""")
    said = run("--on", "hgx-h100", "--world", "2", path)["said"]
    assert "'1.bias': (4,)" in said
    assert "'0.weight': (64, 64)" in said
