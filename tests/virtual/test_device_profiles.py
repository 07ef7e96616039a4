"""Steps of one device against published profiles of real ones: how long kernels take, and how many there are."""

import gzip
import json
from pathlib import Path

import pytest
from running import PROGRAMS, TORCH, run

TRACES = Path(__file__).parents[3] / "shared" / "interop" / "kineto"
pytestmark = [*TORCH, pytest.mark.skipif(not TRACES.is_dir(), reason="needs the collection of traces")]
RESNET = "hta_nccl_parser_config__nccl_data.json.gz"
"""Of two ranks; what joined them is not told (their all-reduces run at 8 GB/s), so collectives are left out."""
CASES = (
    ("alexnet", 1, "hta_critical_path__alexnet__benchmark_result_2869224_1695835535_trace.json.gz", "measure|forward]",
     {"cudnn_convolution": "convolution", "addmm": "addmm", "relu_": "relu", "native_dropout": "native_dropout",
      "max_pool2d_with_indices": "max_pool2d_with_indices"}),
    ("resnet", 2, RESNET, "ProfilerStep#5",
     {"cudnn_convolution": "convolution", "convolution_backward": "convolution_backward", "relu_": "relu",
      "cudnn_batch_norm": "native_batch_norm", "cudnn_batch_norm_backward": "native_batch_norm_backward",
      "threshold_backward": "threshold_backward", "addmm": "addmm", "mm": "mm"}),
)  # fmt: skip


def inside(trace, mark):
    """Device work that was launched in the last stretch of this name but what it communicates, and its operators."""
    with gzip.open(TRACES / trace) as file:
        events = [each for each in json.load(file)["traceEvents"] if each.get("ph") == "X"]
    stretch = [e for e in events if e["name"].endswith(mark) and e["cat"] == "user_annotation"][-1]
    now = [e for e in events if stretch["ts"] <= e["ts"] < stretch["ts"] + stretch["dur"]]
    launched = {e["args"]["correlation"] for e in now if e["cat"] == "cuda_runtime" and "correlation" in e["args"]}
    device = [e for e in events if e["cat"] in ("kernel", "gpu_memcpy", "gpu_memset") and "nccl" not in e["name"]]
    names = [e["name"].removeprefix("aten::") for e in now if e["cat"] == "cpu_op"]
    return sum(e["dur"] for e in device if e["args"].get("correlation") in launched) * 1e-6, names


@pytest.mark.parametrize(("model", "world", "trace", "mark", "same"), CASES, ids=[case[0] for case in CASES])
def test_the_device_is_busy_as_long_as_a_trace_says(model, world, trace, mark, same):
    busy_s, names = inside(trace, mark)
    made = run("--on", "hgx-a100-40g", "--world", world, PROGRAMS / "traced.py", model)
    lines = [
        each for each in made["ranks"][0]["lines"] if each["name"] not in ("copy_to_device", "all_reduce", "broadcast")
    ]
    assert sum(each["seconds"] for each in lines) == pytest.approx(busy_s, rel=0.15)
    ours = {name: sum(each["launches"] for each in lines if each["name"] == name) for name in same.values()}
    assert ours == {name: names.count(theirs) for theirs, name in same.items()}
