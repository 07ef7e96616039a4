"""``taicang replay`` and ``taicang trace`` with bad input: one line that says so, and nothing written."""

import json

import pytest

ON = ("llama-3.1-8b", "--on", "hgx-h100")
LOAD = ("--requests", "20", "--rate", "3/s")
ROWS = "".join(json.dumps({"timestamp": i * 100, "input_length": 100, "output_length": 10}) + "\n" for i in range(20))


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (("--fail", "0@-5s"), "--fail: must be zero or more"),
        (("--fail", "0@1e400s"), "--fail: '1e400s' lies beyond"),
        (("--fail", "0@5s+-3s"), "--fail: must be more than nothing"),
        (("--fail", "\u00b2@5s"), "is not an instance's number"),
        (("--degrade", "scale_up=0.5@-1s"), "--degrade: must be zero or more"),
        (("--drain", "0=3@1s"), "expected INSTANCE@TIME"),
        (("--drain", "0@-1s"), "--drain: must be zero or more"),
        (("--jitter", "1e11s"), "at most 60 s in a step"),
        (("--jitter", "1e300s"), "lies beyond"),
        (("--seed", "-1"), "--seed"),
        (("--cv", "nan", "--process", "gamma"), "'nan' is not a finite number"),
        (("--cv", "3"), "--cv: changes nothing of --process poisson"),
        (("--spread", "nan"), "'nan' is not a finite number"),
        (("--acceptance", "nan"), "'nan' is not a finite number"),
        (("--hours", "nan"), "'nan' is not a finite number"),
        (("--rate", "1e400/s"), "lies beyond"),
        (("--rate", "1e-300/s"), "lies beyond"),
        (("--rate", "1e-9/s"), "keeps time of 100 days"),
        (("--requests", "1000000000000000"), "of memory, more than this host"),
        (("--turns", "1000000000"), "of memory, more than this host"),
        (("--closed-loop", "4"), "--closed-loop: clients set the pace themselves: drop --closed-loop or --rate"),
        (("--think", "5s"), "--think: changes nothing without --closed-loop or --turns"),
        (("--random-think",), "--random-think: changes nothing"),
        (("--profile", "azure-2023-conv", "--shared", "100"), "a profile has lengths of its own"),
        (("--profile", "azure-2023-conv", "--input", "3"), "a profile has lengths of its own"),
        (("--prefill", "1x1", "--decode", "1x1", "--instances", "3"), "the pools name their instances"),
        (("--pool-plane", "rdma"), "--pool-plane: changes nothing without --pool"),
        (("--ttl", "5s"), "--ttl: changes nothing without --offload or --pool or --ssd"),
        (("--keep-answers",), "--keep-answers: changes nothing without"),
        (("--keep-answers", "--pool", "1TB", "--instances", "2"), "does both computes is written anyway"),
        (("--format", "json"), "--format: changes nothing without --out"),
        (("--batch", "4"), "--max-batch"),
    ],
)
def test_options_that_mean_nothing_are_refused(taicang, extra, says):
    code, _, err = taicang("replay", *ON, *LOAD, *extra)
    assert code == 2
    assert says in err


def test_a_trace_has_lengths_of_its_own(taicang, tmp_path):
    (tmp_path / "t.jsonl").write_text(ROWS)
    for extra in (("--input", "3"), ("--turns", "3"), ("--spread", "0.5")):
        code, _, err = taicang("replay", tmp_path / "t.jsonl", *ON, *extra)
        assert code == 2
        assert extra[0] in err


def test_a_run_that_is_refused_leaves_no_folder(taicang, tmp_path):
    out = tmp_path / "deep" / "out"
    code, _, err = taicang("replay", *ON, *LOAD, "--router", "nosuch", "--out", out)
    assert code == 2
    assert "one of least-loaded" in err
    assert not (tmp_path / "deep").exists()
    assert taicang("replay", *ON, *LOAD, "--out", out)[0] == 0
    assert (out / "summary.json").exists()


def test_a_folder_that_takes_no_files_is_said_before_the_run(taicang, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = taicang("replay", *ON, *LOAD, "--out", tmp_path / "file" / "x")
    assert code == 2
    assert "cannot write into" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"input_lens": 3, "output_lens": 4}', ":1: input_lens is not a list"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n0," + "1" * 200_000 + ",3\n", ":2: not CSV"),
        ("arrived_at,num_prefill_tokens,num_prefill_tokens,num_decode_tokens\n0,5,6,1\n", "stands twice"),
        ('{"input_length":' * 5000, ":1: not JSON"),
        ('{"timestamp": 1, "input_length": ' + "9" * 5000 + ', "output_length": 3}\n', ":1: not JSON"),
        ('{"timestamp": ' + "9" * 400 + ', "input_length": 1, "output_length": 3}\n', ":1: timestamp is"),
        ('{"input_length": 1, "output_length": 3, "priority": ' + "9" * 30 + "}\n", ":1: priority must be"),
        ('{"input_length": 1, "output_length": 3, "priority": 1e400}\n', ":1: priority must be"),
        ('{"input_length": 1, "output_length": 3, "priority": 1.5}\n', ":1: priority must be"),
        ('{"input_length": 1, "output_length": 3, "hash_ids": [true]}\n', ":1: hash_ids is not a list"),
    ],
)
def test_a_trace_that_is_broken_is_named_by_its_line(taicang, tmp_path, text, says):
    path = tmp_path / ("t.csv" if text.startswith("arrived") else "t.json")
    path.write_text(text)
    code, _, err = taicang("trace", "info", path)
    assert code == 2
    assert f"{path}{says}" in err or says in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (("--speed", "nan"), "not a finite number"),
        (("--speed", "1e-300"), "--speed"),
        (("--input-scale", "inf"), "--input-scale"),
        (("--input-scale", "100000"), "an input of 10000000 tokens is beyond any model"),
        (("--output-scale", "nan"), "not a finite number"),
        (("--from", "-5s"), "must be zero or more"),
        (("--thin", "nan"), "not a finite number"),
        (("--seed", "-1", "--thin", "0.5"), "--seed"),
    ],
)
def test_changes_that_mean_nothing_are_refused(taicang, tmp_path, extra, says):
    (tmp_path / "t.jsonl").write_text(ROWS)
    code, _, err = taicang("trace", "convert", tmp_path / "t.jsonl", tmp_path / "o.csv", *extra)
    assert code == 2
    assert says in err
    assert not (tmp_path / "o.csv").exists()


def test_a_place_that_takes_no_file_is_named(taicang, tmp_path):
    (tmp_path / "t.jsonl").write_text(ROWS)
    out = tmp_path / "t.jsonl" / "o.csv"
    code, _, err = taicang("trace", "convert", tmp_path / "t.jsonl", out)
    assert code == 2
    assert f"cannot write into {out}: Not a directory" in err
    code, _, err = taicang("trace", "fetch", "mooncake-toolagent", "--out", out)
    assert code == 2
    assert "cannot write into" in err


def test_a_damaged_archive_is_one_line(taicang, tmp_path):
    (tmp_path / "clients.tar.xz").write_text("no archive")
    code, _, err = taicang("trace", "info", tmp_path / "clients.tar.xz")
    assert code == 2
    assert len(err.strip().splitlines()) == 1


def test_a_run_longer_than_the_clock_is_refused(taicang):
    base = ("replay", "--rate", "1/s", "--requests", "10", "llama-3.1-8b", "--on", "hgx-h100", "--instances", "1")
    code, _, err = taicang(*base, "--tp", "1", "--fail", "0@5s+150d")
    assert code == 2
    assert "more than 109 days" in err
    assert "Traceback" not in err
