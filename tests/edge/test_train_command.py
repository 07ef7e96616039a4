"""``taicang train`` on the command line: its answers, its refusals, its files."""

from __future__ import annotations

import json

import pytest

SMALL = ("train", "llama-3-8b", "--on", "hgx-h100", "--global-batch", "64", "--zero", "3")


def test_json_is_whole(taicang):
    code, out, _ = taicang(*SMALL, "--tokens", "1T", "--json")
    made = json.loads(out)["prediction"]
    assert code == 0
    assert made["step"]["seconds"] == pytest.approx(sum(made["step"]["spent"].values()))
    assert sum(made["waterfall"].values()) == pytest.approx(1.0)
    assert made["run"]["tokens"] == 1e12


def test_the_report_names_what_matters(taicang):
    code, out, _ = taicang(*SMALL, "--tokens", "15B", "--explain")
    assert code == 0
    for word in (
        "step",
        "tokens/s",
        "MFU",
        "where the time goes",
        "memory of the fullest rank",
        "goodput",
        "arithmetic",
    ):
        assert word in out


def test_out_of_memory_names_remedies(taicang):
    code, out, _ = taicang("train", "llama-3-70b", "--on", "hgx-h100 x 8", "--tp", 4, "--global-batch", 64)
    assert code == 1
    assert "out of memory" in out
    assert "optimizer" in out
    assert "to spare" in out
    assert "--tp 8" in out


def test_the_trace_opens(taicang, tmp_path):
    file = tmp_path / "step.json"
    code, _, _ = taicang("train", "llama-3-8b", "--on", "hgx-h100", "--pp", 4, "--vpp", 2, "--global-batch", 16,
        "--trace", file,
    )  # fmt: skip
    events = json.loads(file.read_text())["traceEvents"]
    assert code == 0
    passes = [event for event in events if event["ph"] == "X" and event["cat"] in ("forward", "backward")]
    assert {event["pid"] for event in passes} == {0, 1, 2, 3}
    assert len(passes) == 2 * 8 * 8
    assert all(event["dur"] > 0 and event["ts"] >= 0 for event in passes)
    assert {event["name"] for event in events if event["ph"] == "M"} == {"process_name", "thread_name"}


def test_a_search_beats_a_layout_by_hand(taicang):
    _, out, _ = taicang("train", "llama-3-8b", "--on", "hgx-h100", "--global-batch", 64, "--search", "--json")
    best = json.loads(out)["prediction"]["step"]["seconds"]
    _, out, _ = taicang(*SMALL, "--json")
    assert best <= json.loads(out)["prediction"]["step"]["seconds"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--tp", 3), "does not divide the 8 ranks"),
        (("--dtype", "fp9"), "did you mean fp8"),
        (("--tokens", "lots"), "got 'lots'"),
        (("--pp", 2, "--vpp", 3, "--global-batch", 20), "that are a multiple of pp"),
        (("--dp", 16), "8 too many"),
        (("--stack", "nemoo"), "did you mean nemo"),
        (("--global-batch", 3), "not a multiple"),
        (("--order", "tp-dp"), "must name each"),
        (("--order", "1", "--search"), "must name each"),
    ],
)
def test_refusals(taicang, argv, says):
    code, _, err = taicang(*SMALL, *argv)
    assert code == 2
    assert says in err
    assert "Traceback" not in err


def test_a_format_without_arithmetic_is_refused(taicang):
    code, _, err = taicang("train", "llama-3-8b", "--on", "hgx-a100", "--tp", 8, "--global-batch", 8, "--dtype", "fp8")
    assert code == 2
    assert "fp8" in err


@pytest.mark.parametrize(
    ("said", "same"),
    [
        ("interleaved", "1f1b --vpp 2"), ("interleaved --vpp 4", "1f1b --vpp 4"), ("zb-h1", "zero_bubble"),
        ("ZB-2P", "zb_2p"), ("zbv", "zb_v"), ("DualPipe", "dualpipe"), ("dualpipev --vpp 2", "dualpipev"),
    ],
)  # fmt: skip
def test_schedules_go_by_the_names_of_their_papers(taicang, said, same):
    command = "train llama-3-8b --on hgx-h100 --pp 4 --global-batch 64 --json --schedule"
    answers = [json.loads(taicang(*f"{command} {words}".split())[1])["prediction"]["step"] for words in (said, same)]
    assert answers[0] == answers[1]
