"""Programs of the kinds that users have, whose operators, libraries and tools are not those of a language model."""

import json
import re

import pytest
from running import PROGRAMS, TORCH, call, named_npu, run, work

pytestmark = TORCH
FAMILIES = ("mamba", "mamba2", "mixtral", "gpt-oss", "bert", "t5", "whisper", "wav2vec2", "clip", "vit", "detr")


@pytest.mark.parametrize("on", ["hgx-h100", "cloudmatrix384"])
def test_families_of_models(on, tmp_path):
    pytest.importorskip("transformers")
    program = PROGRAMS / "architectures.py"
    said = run("--on", on, "--world", "1", named_npu(program, tmp_path) if on == "hgx-h100" else program,
               *FAMILIES, "generate")["said"]  # fmt: skip
    assert re.findall(r"trained (\S+)", said) == list(FAMILIES)
    assert len(re.findall(r"generated \(", said)) == 4


def test_a_sequence_cut_among_ranks_is_the_same_work_in_a_ring():
    ranks = 4
    whole = 2 * 4096 * 4097 / 2  # sequences x pairs of a causal mask
    linear = 2 * 2 * 8 * 4096 * 64 * 64
    for method, moved in (("allgather", "all_gather world"), ("alltoall", "all_to_all world")):
        made = run("--on", "hgx-h100", "--world", ranks, PROGRAMS / "context.py", method)["ranks"][0]
        flop = sum(line["flop"] for line in made["lines"])
        # attention forward and twice that backward; the layer's product, and that of its weights' gradient
        assert flop == pytest.approx((3 * whole * 8 * 4 * 64 + 2 * linear) / ranks, rel=0.01)
        assert made["collective_bytes"][moved] > 0


def test_pictures_with_batch_norms_over_all_ranks(tmp_path):
    found = [
        run("--on", on, "--world", "8", program)
        for on, program in (("hgx-h100", PROGRAMS / "vision.py"),
                            ("atlas-800-a2", named_npu(PROGRAMS / "vision.py", tmp_path)))
    ]  # fmt: skip
    assert sorted(work(found[0]["ranks"][0])) == sorted(work(found[1]["ranks"][0]))
    # 53 norms gather their statistics forward and sum two of them backward
    launches = {(line["name"], line["phase"]): line["launches"] for line in found[0]["ranks"][0]["lines"]}
    assert launches["batch_norm_elemt", "forward"] == launches["batch_norm_backward_elemt", "backward"] == 53
    # 4.09 G multiplications of a 224 x 224 picture, three times, of eight pictures
    assert found[0]["ranks"][0]["flop"] == pytest.approx(3 * 2 * 4.09e9 * 8, rel=0.03)


def test_what_else_users_call(tmp_path):
    made = run("--on", "hgx-h100", "--world", "1", PROGRAMS / "plain.py", tmp_path)
    assert re.search(r"step 2: loss .*, \d+\.\d+ ms", made["said"])
    assert any("profiler" in note for note in made["notes"])


COMPUTED = """import torch
def values(device):
    at = torch.tensor([[0, 1, 1, 0], [2, 0, 2, 2]], device=device)
    a = torch.sparse_coo_tensor(at, torch.tensor([1.0, 2.0, 3.0, 4.0], device=device), (2, 3))
    ones = torch.ones(2, 3, device=device)
    sparse = [a.coalesce().values(), a.to_dense(), a @ ones.T, a * 2, ones + a, a + a, a.t(), a.cpu(),
              ones.to_sparse(), ones.sparse_mask(a.coalesce())]
    z = torch.tensor([1 + 2j, 3 - 1j], device=device)
    lazy = [(z.conj() * z).real, z.conj().imag, z.conj().cpu().imag, z.conj().resolve_conj().imag]
    rows = torch.sparse_csr_tensor(torch.tensor([0, 1, 3], device=device), torch.tensor([2, 0, 2], device=device),
                                   torch.tensor([1.0, 2.0, 3.0], device=device), (2, 3))
    sparse += [rows @ ones.T, rows.to_dense(), rows * 2, rows.to_sparse(), a.coalesce().to_sparse_csr(), rows.cpu(),
               ones.to_sparse_csr(), torch.addmm(ones @ ones.T, rows, ones.T),
               torch.sparse.sampled_addmm(rows, ones[:, :2], ones)]
    square = torch.tensor([[2.0, 1.0], [1.0, 3.0]], device=device)
    found = [torch.linalg.lstsq(square, square).solution]
    for each in (*sparse, *lazy, *found):
        each = each if each.layout == torch.strided else each.to_dense()
        yield torch.view_as_real(each.resolve_conj()) if each.is_complex() else each
for mine, theirs in zip(values("cuda"), values("cpu"), strict=True):
    assert torch.allclose(mine.cpu(), theirs, atol=1e-6), (mine, theirs)  # float32 of about 1: where a zero is expected
nodes, links = 2000, 10000
graph = torch.sparse_coo_tensor(torch.randint(nodes, (2, links)), torch.ones(links), (nodes, nodes)).cuda()
layer, words = torch.nn.Linear(32, 32).cuda(), torch.nn.Embedding(1000, 16, sparse=True).cuda()
optimizer = torch.optim.SparseAdam(words.parameters())
torch.spmm(graph, layer(torch.randn(nodes, 32, device="cuda"))).sum().backward()
words(torch.randint(1000, (4, 5), device="cuda")).sum().backward()
optimizer.step()
signal = torch.randn(2, 4000, device="cuda", requires_grad=True)
torch.stft(signal, 400, window=torch.hann_window(400, device="cuda"), return_complex=True).abs().sum().backward()
bag = torch.nn.EmbeddingBag(100, 8, mode="sum", sparse=True, device="cuda")
bag(torch.randint(100, (6,), device="cuda"), torch.tensor([0, 2], device="cuda")).sum().backward()
print("done", tuple(layer.weight.grad.shape), words.weight.grad.is_sparse and bag.weight.grad.is_sparse)
"""


@pytest.mark.parametrize("on", ["hgx-h100", "cloudmatrix384"])
def test_sparse_and_complex_tensors_have_the_host_s_values(on, tmp_path):
    path = tmp_path / "computed.py"
    path.write_text(COMPUTED)
    if on == "cloudmatrix384":
        (tmp_path / "npu").mkdir()
        path = named_npu(path, tmp_path / "npu")
    made = run("--on", on, "--world", "1", path)
    assert "done (32, 32) True" in made["said"]
    # each link brings a row of 32 numbers, whichever library multiplies them
    assert any(line["name"] == "index_add" and line["phase"] == "forward" for line in made["ranks"][0]["lines"])


def test_every_function_of_the_device_s_module_answers(tmp_path):
    path = tmp_path / "faces.py"
    path.write_text("""import importlib, inspect, torch
PARTS = ("torch.cuda", "torch.cuda.memory", "torch.cuda.random", "torch.cuda.streams", "torch.cuda.nvtx",
         "torch.cuda.amp", "torch.backends.cuda", "torch.backends.cudnn", "torch.accelerator")
APART = ("caching_allocator_delete", "abort", "init")
for part in PARTS:
    module = importlib.import_module(part)
    for name in getattr(module, "__all__", ()):
        function = getattr(module, name, None)
        if name in APART or not inspect.isfunction(function):
            continue
        needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty and p.kind < 2]
        if not needed:
            print("asked", part, name, flush=True)
            try:
                function()
            except (AttributeError, RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
                print("refused", part, name, error)
for name in ("memory_allocated", "max_memory_reserved", "memory_stats", "mem_get_info", "reset_peak_memory_stats",
             "synchronize", "current_stream", "get_device_properties", "get_device_name", "set_device"):
    getattr(torch.cuda, name)(device=0)
""")
    said = run("--on", "hgx-h100", "--world", "1", path)["said"]
    assert said.count("asked") > 60
    refused = re.findall(r"refused (\S+) (\S+)", said)
    assert refused == []


def test_threads_of_the_program_may_sleep(tmp_path):
    path = tmp_path / "threads.py"
    path.write_text("""import threading, time, torch
stop = threading.Event()
def refresh():
    while not stop.is_set():
        time.sleep(0.5)
thread = threading.Thread(target=refresh)
thread.start()
began = time.time()
x = torch.ones(64, 64, device="cuda")
for size in range(64, 1024):
    x = torch.ones(size, 64, device="cuda") @ torch.ones(64, 64, device="cuda")
torch.cuda.synchronize()
print("took", time.time() - began)
stop.set()
thread.join()
""")
    said = run("--on", "hgx-h100", "--world", "1", path)["said"]
    assert float(re.search(r"took (\S+)", said).group(1)) < 0.4  # the thread's naps are not the host's


def test_what_falls_back_holds_up_the_host_and_takes_its_copies(tmp_path):
    path, log, chakra = tmp_path / "falls.py", tmp_path / "log.json", tmp_path / "step"
    path.write_text("""import torch
rates = torch.ones(1 << 24, device="cuda")
layer = torch.nn.Linear(64, 64).cuda()
optimizer = torch.optim.SGD(layer.parameters(), 0.1)
for _ in range(2):
    layer(torch.randn(8, 64, device="cuda")).sum().backward()
    torch.poisson(rates)
    optimizer.step()
""")
    made = run(
        "--on", "atlas-800-a2", "--world", "1", "--log", log, "--chakra", chakra, "--out", tmp_path / "run", path
    )
    fell = next(each for each in json.loads(log.read_text())["calls"] if each["kind"] == "fell back to the host")
    copies = 2 * (2 << 24) * 4 / 31e9  # there and back of two steps over a link of 31 GB/s
    assert 1.5 * copies < fell["seconds"] < 3 * copies
    assert any("falls back to the host" in each for each in made["assumptions"])
    assert made["step_s"] > fell["seconds"] / 2
    again = json.loads(call("reprice", tmp_path / "run", "--on", "hgx-h100", "--json").stdout)["runs"][0]
    assert again["step_s"] < made["step_s"] / 10
    done = json.loads(call("fabric", "run", chakra, "--on", "atlas-800-a2", "--json").stdout)
    assert done["seconds"] == pytest.approx(made["ranks"][0]["compute_s"], rel=0.02)
