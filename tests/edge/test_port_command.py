"""``taicang port`` as a user meets it: what it refuses, what it writes, how it ends."""

import json
import os
import re

import numpy as np
import pytest

from taicang.ops import Gemm
from taicang.virtual import capture
from taicang.virtual.operators import Kernel

HOT = "import torch\nx = torch.zeros(1).cuda()\nif x.device.type == 'cuda':\n    torch.compile(f)\n"
KERNEL = "__global__ void mine(float* a) {\n}\n"


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repo"
    (folder / "ops").mkdir(parents=True)
    (folder / "train.py").write_text(HOT)
    (folder / "ops" / "mine.cu").write_text(KERNEL)
    return folder


def refused(result, *words):
    code, out, err = result
    assert code == 2, out + err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err
    return err


def test_nothing_to_read_is_refused(taicang, tmp_path):
    refused(taicang("port", tmp_path / "none"), "none", "no such folder")
    refused(taicang("port", tmp_path), "no source file")
    (tmp_path / "README.md").write_text("cuda")
    (tmp_path / "conf.yaml").write_text("device: cuda\n")
    refused(taicang("port", tmp_path), "no source file")
    (tmp_path / "one.py").write_text("")
    refused(taicang("port", tmp_path / "one.py"), "not a folder", "--entry")


def test_an_entry_that_is_not_there_names_the_nearest(taicang, repository):
    refused(taicang("port", repository, "--entry", "trian.py"), "trian.py", "train.py")


def test_options_that_do_not_go_together(taicang, repository):
    refused(taicang("port", repository, "--to", "cuda", "--chip", "950"), "--chip")
    refused(taicang("port", repository, "--torch", "2.8"), "2.8", "2.7.1")


def test_what_cannot_be_read_is_told_and_the_rest_analysed(taicang, repository):
    (repository / "broken.py").write_text("import torch\ndef f(:\n    pass\n")
    (repository / "old.py").write_text("print 'cuda'\n")
    (repository / "zero.py").write_bytes(b"x = 1\x00\n")
    (repository / "latin.py").write_bytes(b"# caf\xe9\nimport torch\ntorch.compile(f)\n")
    (repository / "deep.py").write_text("x = " + "(" * 5000 + ")" * 5000 + "\n")
    (repository / "long.py").write_text("x = 1\n" * 800_000)
    (repository / "linked.py").symlink_to("/dev/zero")
    code, out, err = taicang("port", repository)
    assert code == 0, err
    for name, said in (
        ("broken.py", "line 2"),
        ("old.py", "line 1"),
        ("zero.py", ""),
        ("deep.py", ""),
        ("long.py", ""),
    ):
        assert re.search(rf"not read: {name}: .*{said}", out), name
    assert "latin.py:3" in out
    assert "train.py:4" in out
    assert "linked.py" not in out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_is_anothers_is_left_out(taicang, repository, tmp_path):
    assert taicang("port", repository)[0] == 0  # what it imports may be root's alone
    (repository / "private").mkdir(mode=0o700)
    (repository / "private" / "kernel.cu").write_text("__global__ void f() {}\n")
    for each in (tmp_path, *tmp_path.parents[:3]):
        each.chmod(each.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        code, out, err = taicang("port", repository)
    finally:
        os.seteuid(0)
    assert code == 0, err
    assert "kernel.cu" not in out


def test_fail_on_asks_for_the_worst_tier(taicang, repository):
    assert taicang("port", repository, "--fail-on", "kernel")[0] == 1
    assert taicang("port", repository, "--fail-on", "blocked")[0] == 0
    (repository / "ops" / "mine.cu").unlink()
    assert taicang("port", repository, "--fail-on", "kernel")[0] == 0
    assert taicang("port", repository, "--fail-on", "edit")[0] == 1


def test_files_agree_with_each_other(taicang, repository, tmp_path):
    places = {name: tmp_path / f"port.{name}" for name in ("json", "sarif", "html")}
    (repository / "evil <b>.py").write_text("import torch\ntorch.compile('<script>')\n")
    code, _, err = taicang("port", repository, *(part for name, at in places.items() for part in (f"--{name}", at)))
    assert code == 0, err
    made = json.loads(places["json"].read_text())
    sarif = json.loads(places["sarif"].read_text())
    assert sarif["version"] == "2.1.0"
    (run,) = sarif["runs"]
    assert run["tool"]["driver"]["name"]
    assert len({rule["id"] for rule in run["tool"]["driver"]["rules"]}) == len(run["tool"]["driver"]["rules"])
    for each in run["results"]:
        assert each["message"]["text"]
        assert each["level"] in {"none", "note", "warning", "error"}
        place = each["locations"][0]["physicalLocation"]
        assert not re.search(r"[ <>]", place["artifactLocation"]["uri"])
        assert place["artifactLocation"]["uriBaseId"] in run["originalUriBaseIds"]
        assert place["region"]["startLine"] >= 1
        assert place["region"]["startColumn"] >= 1
    wanted = [each for each in made["findings"] if each["scope"] == "counted" and each["tier"] != "auto"]
    assert len(run["results"]) == len(wanted)
    page = places["html"].read_text()
    assert "<b>.py" not in page
    (shown,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert "evil <b>.py" in json.dumps(json.loads(shown))
    code, _, err = taicang("view", places["json"], "--html", tmp_path / "again.html")
    assert code == 0, err
    code, out, _ = taicang("port", repository, "--json", "-")
    assert json.loads(out) == made
    refused(taicang("port", repository, "--json", tmp_path), "--json")


def test_a_library_of_ones_own(taicang, repository, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "libraries:\n  fastops:\n    imports: [fastops.*]\n    packages: [fast-ops]\n    kind: api_change\n"
        "    counterpart: slowops\n    source: https://example.org/fastops\n"
    )
    (repository / "uses.py").write_text("import fastops as f\n\nf.sort(x)\n")
    (repository / "requirements.txt").write_text("fast_ops==1.0\n")
    code, out, err = taicang("port", repository, "--libraries", mine)
    assert code == 0, err
    assert "uses.py:1, 3" in out
    assert "requirements.txt:1" in out
    assert "slowops" in out
    for text, words in (
        ("libraries:\n  a: {kind: none}\n", ("mine.yaml:2", "source")),
        ("libraries:\n  a: {kind: nothing, source: x}\n", ("mine.yaml:2", "nothing", "none")),
        ("libraries:\n  a: {kind: none, source: x, import: [a]}\n", ("mine.yaml:2", "imports")),
        ("libraries:\n  a: {kind: none, source: x, imports: a}\n", ("mine.yaml:2", "list")),
        ("libraries:\n  a: {kind: drop_in, source: x}\n", ("mine.yaml:2", "counterpart")),
        ("libraries: []\n", ("mine.yaml:1", "mapping")),
        ("library: {}\n", ("mine.yaml:1", "libraries")),
    ):
        mine.write_text(text)
        refused(taicang("port", repository, "--libraries", mine), *words)


def test_a_log_confirms_what_ran(taicang, repository, tmp_path):
    log = tmp_path / "run.json"
    log.write_text(json.dumps({"kernels": [{"name": "aten::std_mean"}, {"name": "mine"}]}))
    (repository / "stats.py").write_text("import torch\ntorch.std_mean(x)\ntorch.var_mean(x)\n")
    made = json.loads(taicang("port", repository, "--log", log, "--json", "-")[1])
    assert {each["text"] for each in made["findings"] if each.get("ran")} == {"torch.std_mean"}
    assert [each["ran"] for each in made["kernels"]] == [True]
    log.write_text("{}")
    refused(taicang("port", repository, "--log", log), "run.json", "no operator")
    log.write_text("{")
    refused(taicang("port", repository, "--log", log), "run.json", "not JSON")


def test_generations_and_versions_differ(taicang, repository):
    (repository / "conv.py").write_text("import torch\ntorch.unique_consecutive(x)\ntorch.ao.quantization.convert(m)\n")

    def rules(*options):
        made = json.loads(taicang("port", repository, "--json", "-", *options)[1])
        return {each["rule"] for each in made["findings"] if each["path"] == "conv.py"}

    assert rules() == set()
    assert "unsupported" in rules("--torch", "2.11")
    assert rules("--chip", "950") == {"not-validated-950"}


def test_operators_are_found_as_imports_name_them(taicang, repository):
    (repository / "net.py").write_text(
        "import torch\nimport torch.nn as nn\nfrom torch.nn import functional as F, Linear\nimport numpy as np\n"
        "a = nn.Linear(256, 1024)\nb = Linear(8, n)  # nn.Conv2d(3, 4, 7) is talked of\nc = torch.nn.Conv2d(3, 64, 7)\n"
        "d = F.scaled_dot_product_attention(q, k, v)\ne = np.matmul(x, y) + x.matmul(y) + x @ y\n"
        "f = mine.Linear(2, 3)\n"
    )
    made = json.loads(taicang("port", repository, "--json", "-")[1])["performance"]
    found = {each["kind"]: each["calls"] for each in made["operators"]}
    assert found == {
        "product": {"torch.nn.Linear": 2, "matmul": 1, "@": 1},
        "convolution": {"torch.nn.Conv2d": 1},
        "attention": {"torch.nn.functional.scaled_dot_product_attention": 1},
    }
    assert (made["before"], made["after"]) == ("hgx-a100", "atlas-800-a2-376t")
    back = json.loads(taicang("port", repository, "--json", "-", "--to", "cuda", "--from", "atlas-800-a3")[1])
    assert (back["performance"]["before"], back["performance"]["after"]) == ("atlas-800-a3-752t", "hgx-a100")
    refused(taicang("port", repository, "--on", "atlas-800-a4"), "atlas-800-a4", "atlas-800-a3")


def test_a_runs_folder_prices_what_ran(taicang, repository, tmp_path):
    product = Gemm(m=4096, n=4096, k=4096, dtype="bf16")
    work = np.array([[capture.KERNEL, 0, 0], [capture.MARK, 0, 0]] * 2)
    rank = capture.Rank(
        rank=0, kernels=(Kernel(name="std_mean", phase="forward", op=product, flop=2.0 * 4096**3),), work=work,
        changes=np.zeros((0, 4), int), operands=np.zeros((0, 3), int), kinds={}, invented={}, notes=(),
    )  # fmt: skip
    run = capture.Capture(command=("net.py",), machine="hgx-a100", world=1, torch="2.7", ranks=(rank,))
    capture.save(run, tmp_path / "run")
    (repository / "stats.py").write_text("import torch\ntorch.std_mean(x)\n")
    made = json.loads(
        taicang("port", repository, "--log", tmp_path / "run", "--json", "-", "--on", "cloudmatrix384")[1]
    )
    assert [each["machine"] for each in made["performance"]["runs"]] == ["hgx-a100", "cloudmatrix384"]
    assert all(each["step_s"] > 0 for each in made["performance"]["runs"])
    assert any(each.get("ran") for each in made["findings"])
    assert "the run on hgx-a100" in taicang("port", repository, "--log", tmp_path / "run")[1]
