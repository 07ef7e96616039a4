"""Repositories of known constructs at known places, mixed at random: all that is planted is found, nothing else."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog import porting
from taicang.errors import TaicangError
from taicang.port import report
from taicang.port.estimate import estimate
from taicang.port.scan import scan
from taicang.port.tables import TIERS, Use
from taicang.predict.ported import ported

HEAD = {
    "ascend": "import torch\nimport torch.nn as nn\nfrom torch import cuda as gpu\nimport os, numpy as np\n",
    "cuda": "import torch\nimport os, numpy as np\n",
}
HEAD_FOUND = {"ascend": [(3, "cuda-api")], "cuda": []}
# Each construct: its lines, and (offset, rule) of what is found in them.
PYTHON = {
    "ascend": [
        (["x = x.cuda()"], [(0, "cuda-move")]),
        (["torch.cuda.synchronize()"], [(0, "cuda-api")]),
        (["gpu.empty_cache()"], [(0, "cuda-api")]),
        (["d = torch.device('cuda')"], [(0, "cuda-string")]),
        (["d = torch.device(", "    'cuda:0',", ")"], [(1, "cuda-string")]),
        (["x = (x", "     .view(-1)", "     .cuda())"], [(2, "cuda-move")]),
        (["if d.type == 'cuda':", "    pass"], [(0, "device-compare")]),
        (["if d in ('cuda', 'cpu'):", "    pass"], [(0, "device-compare")]),
        (["if str(d).startswith('cuda'):", "    pass"], [(0, "device-compare")]),
        (["torch.distributed.init_process_group('nccl')"], [(0, "nccl-string")]),
        (["os.environ['CUDA_VISIBLE_DEVICES'] = '0'"], [(0, "environment")]),
        (["y = torch.zeros(3, dtype=torch.float64)"], [(0, "number-format")]),
        (["m = nn.DataParallel(m)"], [(0, "unsupported")]),
        (["s, m = torch.std_mean(x)"], [(0, "unsupported")]),
        (["f = torch.compile(f)"], [(0, "compile")]),
        (["from flash_attn import flash_attn_func as f1"], [(0, "flash_attn")]),
        (["import xformers.ops as xo", "xo.memory_efficient_attention(q)"], [(0, "xformers"), (1, "xformers")]),
        (["from mmcv.ops import nms, roi_align", "nms(x)"], [(0, "mmcv_ops")]),
        (["import triton", "@triton.jit", "def k(x):", "    return x"], [(0, "triton"), (1, "triton-kernel")]),
        (["p = torch.cuda.get_device_properties(0)"], [(0, "capability")]),
    ],
    "cuda": [
        (["x = x.npu()"], [(0, "npu-move")]),
        (["torch.npu.synchronize()"], [(0, "npu-api")]),
        (["import torch_npu", "torch_npu.npu_fusion_attention(q)"], [(0, "npu-import"), (1, "npu-attention")]),
        (["import torch_npu as t", "t.npu_swiglu(q)"], [(0, "npu-import"), (1, "npu-operator")]),
        (["d = torch.device('npu:0')"], [(0, "npu-string")]),
        (["if d.type != 'npu':", "    pass"], [(0, "device-compare")]),
        (["torch.distributed.init_process_group('hccl')"], [(0, "hccl-string")]),
        (["os.environ['HCCL_BUFFSIZE'] = '1'"], [(0, "environment")]),
        (["from mindspeed import megatron_adaptor"], [(0, "mindspeed")]),
        (["import mx_driving", "mx_driving.knn(x)"], [(0, "mx_driving"), (1, "mx_driving")]),
    ],
}
PLAIN = [
    ["# torch.cuda.synchronize() and x.npu() are only talked of"],
    ['"""A text that says .cuda(), nccl, CUDA_VISIBLE_DEVICES, npu, hccl and xformers."""'],
    ["cudaless = 'barracuda'", "npuless = 'input'"],
    ["def f(q, cuda=None, npu=None):", "    return cuda or npu"],
    ["x = np.zeros(3).reshape(1, -1)"],
    ["class A:", "    def cuda(self):", "        return 1", "    def npu(self):", "        return 1"],
    ["y = torch.softmax(x, -1)", ""],
    ["import json"],
]
NATIVE = {
    "ascend": [
        (["__global__ void k1(float* a) {", "  a[0] = 1;", "}"], [(0, "cuda-kernel")]),
        (["void f1() { k1<<<1, 2>>>(p); }"], [(0, "launch")]),
        (["  cudaMalloc(&p, 4);"], [(0, "cuda-runtime")]),
        (["  ncclAllReduce(a, b);"], [(0, "nccl-c")]),
        (["#include <nccl.h>"], [(0, "nccl-c")]),
        (['  asm volatile("mma.sync;");'], [(0, "ptx")]),
        (["  thrust::sort(a, b);"], [(0, "device-library")]),
    ],
    "cuda": [
        (["__global__ __aicore__ void k1(GM_ADDR a) {", "}"], [(0, "ascend-kernel"), (0, "ascend-c")]),
        (["  aclrtMalloc(&p, 4, f);"], [(0, "acl-runtime")]),
        (["  HcclAllReduce(a, b);"], [(0, "hccl-c")]),
        (["  EXEC_NPU_CMD(aclnnAdd, a);"], [(0, "aclnn")]),
    ],
}
PLAIN_NATIVE = [
    ["// __global__ cudaMalloc __aicore__ aclrtMalloc"],
    ["/* <<< thrust::", "   ncclAllReduce HcclAllReduce */"],
    ['const char* s = "cudaMalloc aclrtMalloc asm(";'],
    ["int mycudaMallocs = 1 << 2;"],
    ["int f(int a) {", "  return a;", "}"],
]
SHELL = {
    "ascend": [
        (["export CUDA_VISIBLE_DEVICES=0,1"], [(0, "environment")]),
        (["NCCL_DEBUG=INFO torchrun x"], [(0, "environment")]),
        (["nvidia-smi  # look"], [(0, "profiling")]),
    ],
    "cuda": [(["export ASCEND_RT_VISIBLE_DEVICES=0"], [(0, "environment")]), (["npu-smi info"], [(0, "npu-profiler")])],
}
PLAIN_SHELL = [["# export CUDA_VISIBLE_DEVICES=0 npu-smi"], ["echo done"], ["MY_CUDA_HOME_NOT=1"]]
YAML = {
    "ascend": [
        (["device: cuda"], [(0, "cuda-string")]),
        (["backend: 'nccl'"], [(0, "nccl-string")]),
        (["- cuda:1"], [(0, "cuda-string")]),
    ],
    "cuda": [(["device: npu"], [(0, "npu-string")]), (["backend: hccl"], [(0, "hccl-string")])],
}
PLAIN_YAML = [["# device: cuda, npu"], ["name: barracuda"], ["text: cuda and npu in words"]]
NEEDS = {
    "ascend": [
        (["flash-attn>=2.5"], [(0, "flash_attn")]),
        (["torch==2.0.1+cu118"], [(0, "cuda-wheel")]),
        (["spconv-cu118"], [(0, "spconv")]),
    ],
    "cuda": [(["torch_npu==2.7.1"], [(0, "npu-import")])],
}
PLAIN_NEEDS = [["# flash-attn"], ["numpy>=1.20"], ["flask"]]
FILES = {
    "pkg/model.py": (PYTHON, PLAIN),
    "main.py": (PYTHON, PLAIN),
    "csrc/op.cu": (NATIVE, PLAIN_NATIVE),
    "run.sh": (SHELL, PLAIN_SHELL),
    "conf.yaml": (YAML, PLAIN_YAML),
    "requirements.txt": (NEEDS, PLAIN_NEEDS),
}


@st.composite
def repositories(draw, to):
    """Path -> text, and the places of all that is planted."""
    texts, planted = {}, set()
    for path, (constructs, plain) in FILES.items():
        lines = []
        if path.endswith(".py"):
            lines = HEAD[to].splitlines()
            planted |= {(path, line, rule) for line, rule in HEAD_FOUND[to]}
        choices = [*constructs[to], *((each, []) for each in plain)]
        for written, found in draw(st.lists(st.sampled_from(choices), max_size=12)):
            planted |= {(path, len(lines) + 1 + offset, rule) for offset, rule in found}
            lines.extend(written)
        texts[path] = "\n".join(lines) + "\n" * draw(st.booleans())
    return texts, planted


def lay(folder, texts):
    for path, text in texts.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8", newline=draw_newline(path))
    return folder


def draw_newline(path):
    return "\r\n" if path.startswith("pkg") else "\n"  # a file from Windows is read alike


def scanned(folder, to, entries=()):
    return scan(folder, porting.rules(to), porting.operators(to), entries)


@pytest.mark.parametrize("to", ["ascend", "cuda"])
@given(data=st.data())
def test_all_that_is_planted_is_found_and_nothing_else(to, data, tmp_path_factory):
    texts, planted = data.draw(repositories(to))
    folder = lay(tmp_path_factory.mktemp("repo"), texts)
    found = scanned(folder, to)
    places = {(read.path, each.line, each.rule.name) for read in found.files.values() for each in read.findings}
    assert places == planted
    made = report.data(found, estimate(found, porting.effort()))
    said = report.sarif(found, "1")["runs"][0]
    in_json = sorted(
        (each["path"], each["line"], each["column"], each["rule"])
        for each in made["findings"]
        if each["scope"] == "counted" and each["tier"] != "auto"
    )
    in_sarif = sorted(
        (
            place["artifactLocation"]["uri"],
            place["region"]["startLine"],
            place["region"]["startColumn"],
            each["ruleId"].rpartition("/")[0],
        )
        for each in said["results"]
        for place in [each["locations"][0]["physicalLocation"]]
    )
    assert in_json == in_sarif
    for each in said["results"]:
        assert said["tool"]["driver"]["rules"][each["ruleIndex"]]["id"] == each["ruleId"]
    json.dumps(made, allow_nan=False)


@pytest.mark.parametrize("to", ["ascend", "cuda"])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_two_repositories_in_one_hold_what_each_holds_and_a_longer_one_is_no_smaller_port(to, data, tmp_path_factory):
    one, two = (data.draw(repositories(to))[0] for _ in range(2))
    names = data.draw(st.permutations(["left", "right"]))
    both = {
        f"{name}/{path}": text for name, texts in zip(names, (one, two), strict=True) for path, text in texts.items()
    }
    longer = {path: text + "\n" + (two[path] if path.endswith((".cu", ".sh")) else "") for path, text in one.items()}
    folders = [lay(tmp_path_factory.mktemp("repo"), texts) for texts in (one, two, both, longer)]
    first, second, whole, more = (scanned(folder, to) for folder in folders)
    assert whole.tiers() == first.tiers() + second.tiers()
    assert sum(len(each.kernels) for each in whole.files.values()) == sum(
        len(each.kernels) for found in (first, second) for each in found.files.values()
    )
    sizes = [estimate(found, porting.effort()) for found in (first, second, whole, more)]
    for size in sizes:
        for band in (size.files, size.must_change, *(each.ported for each in size.kernels)):
            assert band is None or 0 <= band.low <= band.middle <= band.high
    for small, large in ((0, 2), (1, 2), (0, 3)):
        kernels = [{each.path: each.lines for each in sizes[number].kernels} for number in (small, large)]
        assert sum(kernels[0].values()) <= sum(kernels[1].values())
        if to == "ascend" and sizes[small].features.kind == sizes[large].features.kind:
            for name in ("files", "must_change"):
                assert getattr(sizes[small], name).middle <= getattr(sizes[large], name).middle, name


@given(data=st.data())
def test_what_an_entry_does_not_reach_is_apart(data, tmp_path_factory):
    """A chain of modules from the entry, in any layout, and others beside it."""
    names = [f"m{number}" for number in range(data.draw(st.integers(2, 7)))]
    packages = [data.draw(st.sampled_from(["", "a", "a/b", "c"])) for _ in names]
    reached = data.draw(st.integers(1, len(names)))
    texts = {f"{folder}/__init__.py": "" for folder in ("a", "a/b", "c")}
    paths = [f"{folder}/{name}.py".lstrip("/") for folder, name in zip(packages, names, strict=True)]
    for number, path in enumerate(paths):
        following = paths[number + 1] if number + 1 < reached else ""
        dotted = following.removesuffix(".py").replace("/", ".")
        ways = [f"import {dotted}", f"from {dotted} import f"]
        if "." in dotted:
            package, _, name = dotted.rpartition(".")
            ways.append(f"from {package} import {name}")
        line = data.draw(st.sampled_from(ways)) if following else ""
        texts[path] = f"import torch\n{line}\ndef f():\n    return torch.cuda.CUDAGraph()\n"
    folder = lay(tmp_path_factory.mktemp("repo"), texts)
    found = scanned(folder, "ascend", [paths[0]])
    counted = {path for path in paths if found.scope[path] == "counted"}
    assert counted == set(paths[:reached])
    assert found.tiers()["edit"] == reached


def test_sources_that_a_build_does_not_list_go_with_its_extension(tmp_path):
    setup = (
        "import glob\nfrom setuptools import setup\nfrom torch.utils.cpp_extension import CUDAExtension\n"
        "setup(ext_modules=[CUDAExtension('fast_ops', glob.glob('csrc/*.cu') + extra)])\n"
    )
    texts = {
        "setup.py": setup,
        "csrc/deep/k.cu": "__global__ void k(float* a) {\n}\n",
        "uses.py": "import fast_ops\n",
        "other.py": "import numpy\n",
        "kernels/npu/k_npu.cpp": "#include <cuda_runtime.h>\n",
        "lib/rows_npu.py": "import torch\ntorch.compile(f)\n",
    }
    lay(tmp_path, texts)
    for entry, counts in (("uses.py", True), ("other.py", False)):
        assert (scanned(tmp_path, "ascend", [entry]).scope["csrc/deep/k.cu"] == "counted") is counts
    whole = scanned(tmp_path, "ascend")
    assert whole.scope["csrc/deep/k.cu"] == "counted"
    assert whole.scope["kernels/npu/k_npu.cpp"] == whole.scope["lib/rows_npu.py"] == "ported"


MODEL = "import torch\nclass Model: pass\n"
REACHED = {
    "a module below a folder of the program": {
        "train/__init__.py": "", "train/run/go.py": "from parts.net import Model",
    },
    "a class that settings of Hydra name": {
        "train/run/go.py": "import hydra\n@hydra.main(config_path='../settings')\ndef main(config): ...",
        "train/settings/model/one.yaml": "_target_: train.parts.net.Model",
        "train/other.py": "from parts import net",
    },
    "what an entry's settings name in a registry": {
        "train/run/go.py": "import parts", "train/run/one.yaml": "model: {name: mine}",
        "train/parts/__init__.py": "from .net import *",
        "train/parts/net.py": "@models.register('mine')\nclass Model: pass",
    },
    "what a package's own function calls": {
        "train/run/go.py": "from parts import build", "train/other.py": "from parts.net import Model",
        "train/parts/__init__.py": "from .net import Model\ndef build():\n    return Model()\n",
    },
}  # fmt: skip


@pytest.mark.parametrize("how", REACHED)
def test_what_a_program_reaches_counts(how, tmp_path):
    lay(tmp_path, {"train/parts/net.py": MODEL, "train/parts/idle.py": MODEL} | REACHED[how])
    entries = ["train/run/go.py", *(path for path in REACHED[how] if path == "train/run/one.yaml")]
    scope = scanned(tmp_path, "ascend", entries).scope
    assert scope["train/parts/net.py"] == "counted"
    assert scope["train/parts/idle.py"] == "unreached"


def test_files_that_call_operators_of_ones_own_are_edited(tmp_path):
    build = "make_cuda_ext(name='pool_ext', module='a.ops', sources=[f'src/pool.cpp'], sources_cuda=['src/pool.cu'])"
    lay(tmp_path, {
        "setup.py": f"from torch.utils.cpp_extension import CUDAExtension\n{build}\n",
        "a/ops/__init__.py": "", "a/ops/src/pool.cu": "__global__ void bev_pool_kernel() {}\n",
        "a/ops/src/pool.cpp": "",
        "a/ops/pool.py": "from . import pool_ext\n", "a/ops/flat.py": "from . import pool\n",
    })  # fmt: skip
    files = scanned(tmp_path, "ascend").files
    assert [each.rule.name for each in files["a/ops/pool.py"].findings] == ["own-operator"]
    assert "bev_pool" in files["a/ops/pool.py"].findings[0].rule.counterpart
    assert not files["a/ops/flat.py"].findings


def test_kernels_are_those_of_the_side_that_is_left(tmp_path):
    texts = {
        "a.cu": "__global__ void one(float* a) {\n  if (a) { a[0] = 1; }\n}\n__global__ void declared(float* a);\n",
        "b.cpp": 'extern "C" __global__ __aicore__ void two(GM_ADDR a) {\n}\n__aicore__ inline void helper() {\n}\n',
        "c.cu": "template <int N>\n__global__ __launch_bounds__(256)\nvoid three(float* a)\n{\n}\n",
    }
    lay(tmp_path, texts)
    for to, wanted in (("ascend", [("one", 1, 3), ("three", 2, 4)]), ("cuda", [("two", 1, 2)])):
        kernels = [each for read in scanned(tmp_path, to).files.values() for each in read.kernels]
        assert [(each.name, each.line, each.lines) for each in kernels] == wanted


def test_tests_vendored_and_unreached_kernels_do_not_count(tmp_path):
    kernel = "__global__ void k(float* a) {\n}\n"
    setup = (
        "from setuptools import setup\nfrom torch.utils.cpp_extension import CUDAExtension\n"
        "setup(ext_modules=[CUDAExtension(name='lib._one', sources=['lib/src/one.cu']), "
        "CUDAExtension('lib._two', ['lib/src/two.cu'])])\n"
    )
    texts = {
        "train.py": "from lib.one import f\n",
        "lib/__init__.py": "from .one import f\nfrom .two import g\n",
        "lib/one.py": "from . import _one\ndef f():\n    return _one.f()\n",
        "lib/two.py": "from . import _two\ndef g():\n    return _two.g()\n",
        "lib/src/one.cu": kernel,
        "lib/src/two.cu": kernel,
        "third_party/other/x.cu": kernel,
        "tests/test_one.py": "import torch\ntorch.compile(f)\n",
        "setup.py": setup,
    }
    found = scanned(lay(tmp_path, texts), "ascend", ["train.py"])
    assert [path for path in texts if path.endswith(".cu") and found.scope[path] == "counted"] == ["lib/src/one.cu"]
    assert found.scope["tests/test_one.py"] == "test"
    assert found.scope["third_party/other/x.cu"] == "vendored"
    assert found.scope["setup.py"] == "counted"


def test_kernels_of_operators_that_a_library_has_are_not_written_anew(tmp_path):
    texts = {
        "ops/a.py": "import torch\n",
        "ops/bev_pool_v2/bev_pool_cuda.cu": "__global__ void k(float* a) {\n}\n",
        "ops/mine/mine_cuda.cu": "__global__ void k(float* a) {\n}\n",
    }
    found = scanned(lay(tmp_path, texts), "ascend")
    assert found.worst() == "kernel"
    size = estimate(found, porting.effort())
    assert [each.path for each in size.kernels] == ["ops/mine/mine_cuda.cu"]
    assert size.taken == 1
    assert size.features.kind == "C"


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_has_rules_in_both_directions(tier):
    assert any(rule.tier == tier for rule in porting.rules("ascend").all)
    if tier not in {"auto", "blocked"}:  # no shim towards CUDA, and nothing known that CUDA lacks
        assert any(rule.tier == tier for rule in porting.rules("cuda").all)


KINDS = sorted(set(porting.uses().values()))
USES = st.builds(
    Use, st.just("torch.x"), st.sampled_from(KINDS),
    st.one_of(st.just(()), st.lists(st.integers(0, 14).map(lambda power: 2**power), max_size=3).map(tuple)),
)  # fmt: skip


@given(st.lists(USES, min_size=1, max_size=6), *[st.sampled_from(catalog.names("machine"))] * 2)
def test_operators_on_any_two_machines_are_priced_or_refused(uses, first, second):
    try:
        one, other = catalog.machine(first), catalog.machine(second)
        there, same = ported(uses, one, other), ported(uses, one, one)
    except TaicangError:
        return
    assert all((each.low_ratio, each.middle_ratio, each.high_ratio) == (1.0, 1.0, 1.0) for each in same.operators)
    assert all(0 < each.low_ratio <= each.middle_ratio <= each.high_ratio < 1e4 for each in there.operators)
    assert sum(sum(each.calls.values()) for each in there.operators) == len(uses) or len(there.assumptions) > 2
    back = {each.kind: each for each in ported(uses, other, one).operators}
    for each in there.operators:
        assert back[each.kind].middle_ratio * each.middle_ratio == pytest.approx(1.0, rel=0.1)
