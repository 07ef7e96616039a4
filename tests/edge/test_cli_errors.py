"""Bad input on the command line: one line, the place, the nearest valid name, exit code 2, no traceback."""

import json

import click
import pytest

from taicang.app.main import COMMANDS, SAME, cli, main

INFER = ("infer", "deepseek-r1", "--on", "cloudmatrix384")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("infr",), "did you mean infer"),
        (("infer", "deepsek-r1", "--on", "cloudmatrix384"), "did you mean deepseek-r1"),
        (("infer", "deepseek-r1", "--on", "cloudmatrx384"), "did you mean cloudmatrix384"),
        ((*INFER, "--tpot", "50"), "--tpot: '50' has no unit"),
        ((*INFER, "--tpot", "50 GB"), "is a unit of bytes, expected one of s"),
        ((*INFER, "--quant", "fp9"), "did you mean fp8"),
        ((*INFER, "--quant", "fp8"), "has no fp8 arithmetic"),
        ((*INFER, "--stack", "vlm"), "did you mean vllm"),
        ((*INFER, "--set", "chip.memory.bandwith=4 TB/s"), "did you mean chip.memory.bandwidth"),
        ((*INFER, "--set", "chip.memory.bandwidth=4"), "4 has no unit"),
        ((*INFER, "--set", "chip.memory.bandwidth=4 GB"), "expected one of bytes_per_s"),
        ((*INFER, "--ep", "7"), "ep=7 does not divide 256 expert slots"),
        ((*INFER, "--tp", "256"), "tp=256 does not divide 128 query heads"),
        ((*INFER, "--input", "0"), "expected a whole number of at least 1, got '0'"),
        (("infer", "llama-3.1-8b", "--on", "hgx-h100", "--tp", "16"), "8 too many"),
        (("infer", "deepseek-r1", "--on", "zte-nebula"), "no public figure for chip"),
        (("infer", "deepseek-v4.1-flash", "--on", "hgx-h100"), "compressed context"),
        (("infer", "no/such/config.json", "--on", "hgx-h100"), "no/such/config.json"),
        (("catalog", "show", "cloudmtrix384"), "did you mean cloudmatrix384"),
        (("models", "show", "qwen3-8"), "qwen3-8b"),
        (("score", "--suite", "gem"), "did you mean gemm"),
        (("replay", "m", "--on", "hgx-h100", "--users", "8"), "--closed-loop"),
        (("replay", "m", "--on", "hgx-h100", "--clients", "8"), "--closed-loop"),
        ((*INFER, "--max-concurrency", "8"), "--clients"),
        ((*INFER, "--isl", "8"), "--input"),
        ((*INFER, "--gpu-memory-utilization", "0.9"), "--memory-fraction"),
        (("train", "m", "--on", "hgx-h100", "--gbs", "8"), "--global-batch"),
        (("train", "m", "--on", "hgx-h100", "--tensor_model_parallel_size", "8"), "--tp"),
        (("fit", "gemm"), "needs --evidence"),
    ],
)
def test_mistakes_are_named_in_one_line_with_exit_code_2(taicang, argv, says):
    code, out, err = taicang(*argv)
    assert code == 2
    assert says in err
    assert "Traceback" not in out + err


def test_infeasible_is_a_value_with_exit_code_1(taicang):
    code, out, _ = taicang("infer", "deepseek-r1", "--on", "hgx-h100", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["infeasible"] is True
    assert "out of memory" in found["reason"]
    assert found["remedies"]


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr("sys.argv", ["taicang", "--debug", "infer", "deepsek-r1", "--on", "cloudmatrix384"])
    with pytest.raises(Exception, match="unknown model"):
        main()


def test_json_is_the_prediction(taicang):
    code, out, _ = taicang(*INFER, "--tpot", "50ms", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["tpot_s"] <= 0.05
    assert found["decode"]["plan"]["ep"] > 1
    assert found["assumptions"]
    assert found["digest"]


def test_a_machine_file_of_ones_own(taicang, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: cloudmatrix384\nchip:\n  base: ascend-910c-752t\n  memory:\n    bandwidth: 4 TB/s\n")
    fast = taicang("infer", "deepseek-r1", "--on", str(mine), "--json")
    base = taicang(*INFER, "--json")
    rate = [json.loads(out)["decode"]["tokens_per_s_per_chip"] for _, out, _ in (fast, base)]
    assert rate[0] > rate[1]


def test_a_malformed_machine_file_names_file_line_and_key(taicang, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: cloudmatrix384\npower:\n  load: 500\n")
    code, _, err = taicang("infer", "deepseek-r1", "--on", str(mine))
    assert code == 2
    assert f"{mine}:3" in err
    assert "has no unit" in err


def test_help_imports_nothing_heavy():
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    code = "import sys; from taicang.app.main import cli; cli(['--help'], standalone_mode=False); "
    code += "print([m for m in ('numpy', 'rich', 'yaml', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_words_for_the_same_are_each_known_to_some_command_and_in_one_group_only():
    words = [word for group in SAME for word in group.split()]
    assert len(words) == len(set(words))
    with click.Context(cli) as context:
        commands = [cli.get_command(context, name) for name in COMMANDS]
    known = {opt for one in commands for param in one.params for opt in param.opts}
    assert all(any(f"--{word}" in known for word in group.split()) for group in SAME)


def test_view_of_a_capture_names_what_prices_it(taicang, tmp_path):
    (tmp_path / "capture.json").write_text("{}")
    code, _, err = taicang("view", str(tmp_path), "--html", str(tmp_path / "a.html"))
    assert code == 2
    assert "taicang reprice" in err
