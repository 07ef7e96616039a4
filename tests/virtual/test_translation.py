"""A program of CUDA on a virtual Ascend: what became of its calls, and what a porting report makes of that."""

import json

from running import TORCH, call, run

pytestmark = TORCH
PROGRAM = """import torch
torch.cuda.set_device(0)
major, _ = torch.cuda.get_device_capability()
model = torch.compile(torch.nn.Linear(64, 64).cuda())
y = model(torch.randn(8, 64, device="cuda")).abs() + 1
for _ in range(3):
    torch.poisson(y)
print(torch.cuda.memory_allocated() > 0)
if major > 99:
    torch.cuda.get_arch_list()
"""


def test_the_log_of_a_run_is_half_of_a_porting_report(tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    script, log = repository / "train.py", tmp_path / "log.json"
    script.write_text(PROGRAM)
    made = run("--on", "cloudmatrix384", "--world", "1", "--log", log, script)
    calls = json.loads(log.read_text())["calls"]
    assert calls == made["translated"]
    kinds = {(each["api"], each.get("line")): each["kind"] for each in calls}
    assert kinds["torch.cuda.set_device", 2] == kinds["torch.cuda.memory_allocated", 8] == "mapped"
    assert kinds["torch.cuda.get_device_capability", 3] == kinds["torch.compile", 4] == "mapped, to be checked"
    assert kinds["aten.poisson", None] == "fell back to the host"
    assert next(each["count"] for each in calls if each["api"] == "aten.poisson") == 3
    assert next(each["became"] for each in calls if each["operator"] == "set_device") == "torch.npu.set_device"
    ported = json.loads(call("port", repository, "--log", log, "--json", "-").stdout)
    ran = {each["line"]: each.get("ran", False) for each in ported["findings"]}
    assert ran[3]
    assert ran[7]
    assert not ran[10]  # the program never came there


def test_no_translation_where_names_and_machine_agree(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import torch\ntorch.cuda.set_device(0)\n")
    assert run("--on", "hgx-h100", "--world", "1", script)["translated"] == []
