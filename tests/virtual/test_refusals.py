"""What cannot go on ends: in one line that says where and what to do, and within seconds."""

import time

import pytest
from running import TORCH, call

pytestmark = TORCH
HEAD = """import os, torch
import torch.distributed as dist
dist.init_process_group("nccl")
rank, many = dist.get_rank(), dist.get_world_size()
"""
WAITS = {
    "group's store": '[dist.distributed_c10d._get_default_store().set(str(rank), "1"), '
                     '*(dist.distributed_c10d._get_default_store().get(str(each)) for each in range(many))]',
    "event": "__import__('threading').Event().wait()",
    "file": "[__import__('time').sleep(0.1) for _ in iter(lambda: os.path.exists(f'rank-{many - 1}'), True)]",
}  # fmt: skip


@pytest.mark.parametrize("ranks", ["reps", "0,1"])
@pytest.mark.parametrize("way", WAITS)
def test_who_waits_for_ranks_that_do_not_run_is_told_where(way, ranks, tmp_path):
    path = tmp_path / "waits.py"
    path.write_text(HEAD + WAITS[way] + "\n")
    begun = time.process_time()
    done = call("run", "--on", "hgx-h100", "--ranks", ranks, path, cwd=tmp_path)
    assert done.returncode == 2
    assert "waits.py:5: rank 0 waits here" in done.stderr
    assert "--ranks all runs all 8" in done.stderr
    assert time.process_time() - begun < 60


def test_a_store_is_shared_by_the_ranks_that_run(tmp_path):
    path = tmp_path / "waits.py"
    path.write_text(HEAD + WAITS["group's store"] + "\n")
    done = call("run", "--on", "hgx-h100", "--world", 3, "--ranks", "all", path)
    assert done.returncode == 0, done.stderr


STORE = """import os, torch
import torch.distributed as dist
rank, many = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), many, rank == 0)
store.set(f"from {rank}", "1")
dist.init_process_group("nccl", store=store, rank=rank, world_size=many)
dist.all_reduce(torch.ones(4, device="cuda"))
print("rank", rank, store.get("from 0"))
"""


@pytest.mark.parametrize("ranks", ["reps", "0,1", "all"])
def test_a_store_of_the_program_waits_for_the_ranks_that_run(ranks, tmp_path):
    path = tmp_path / "stored.py"
    path.write_text(STORE)
    done = call("run", "--on", "hgx-h100", "--world", 4, "--ranks", ranks, path)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("rank ")]
    assert sorted(said) == [f"rank {each} b'1'" for each in range({"reps": 1, "0,1": 2, "all": 4}[ranks])]


def test_objects_come_from_the_rank_that_has_them(tmp_path):
    path = tmp_path / "objects.py"
    path.write_text(
        HEAD
        + """device = torch.device("cuda")
told = [{"from": rank}, rank] if rank == 1 else [None, None]
dist.broadcast_object_list(told, src=1, device=device)
mine = [None]
dist.scatter_object_list(mine, [f"for {each}" for each in range(many)] if rank == 1 else None, src=1)
print("got", rank, told, mine)
"""
    )  # one rank is asked for, and the other is added
    done = call("run", "--on", "hgx-h100", "--world", 3, "--ranks", "0", path)
    assert "got 0 [{'from': 1}, 1] ['for 0']" in done.stdout, done.stderr


def test_ranks_write_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "lines.py"
    path.write_text(HEAD + "dist.barrier()\nfor each in range(2000):\n    print(*(f'{rank}' for _ in range(40)))\n")
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    done = call("run", "--on", "hgx-h100", "--world", 4, "--ranks", "all", path)
    lines = [each.split() for each in done.stdout.splitlines() if each[:1].isdigit()]
    assert len(lines) >= 8000
    assert sum(len(each) == 40 and len(set(each)) == 1 for each in lines) == 8000, done.stderr


NEED = {
    "compiled at run time": 'from torch.utils.cpp_extension import load_inline\n'
                            'load_inline("mine", "int f();", "int f() { return 1; }", functions=["f"])',
    "runtime compiler": "torch.cuda._compile_kernel('__global__ void f(float* x) {}', 'f')",
    "jiterator": "f = torch.cuda.jiterator._create_jit_fn('template <typename T> T f(T x) { return x; }')\n"
                 "f(torch.ones(4, device='cuda'))",
    "vendor's library": "import ctypes\nctypes.CDLL('libcublas.so.99')",
    "inside another error": "import triton\n@triton.jit\ndef f(x): ...\ntry:\n    f[(1,)](1)\n"
                            "except NotImplementedError as error:\n    raise RuntimeError('no kernel') from error",
    "symmetric memory": "import torch.distributed._symmetric_memory as symm\n"
                        "symm.rendezvous(symm.empty(64, device='cuda'), '0')",
}  # fmt: skip


@pytest.mark.parametrize("way", NEED)
def test_what_needs_a_real_kernel_is_one_line(way, tmp_path):
    path = tmp_path / "needs.py"
    path.write_text("import torch\n" + NEED[way] + "\n")
    done = call("run", "--on", "hgx-h100", "--world", "1", path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("taicang: needs.py:")
    assert len(done.stderr.splitlines()) == 1
    assert any(word in done.stderr for word in ("register_fake", "collectives of torch.distributed"))


def test_a_device_that_is_not_there_is_the_program_s_error(tmp_path):
    path = tmp_path / "second.py"
    path.write_text("import torch\ntorch.ones(4, device='cuda:1')\n")
    done = call("run", "--on", "hgx-h100", "--world", "1", path)
    assert done.returncode == 1
    assert "invalid device ordinal 1" in done.stderr
