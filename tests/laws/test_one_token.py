"""An answer of one token has no second: no command says a TPOT of it, and a limit of it binds nothing."""

import json
import random
import re

import pytest
from banded import check

from taicang.app.load_options import fields_of
from taicang.app.main import cli
from taicang.app.options import context_of, written
from taicang.search.door import Run
from taicang.search.points import USUAL_TOKENS

GAPS = {"tpot", "itl", "tpot_s", "tpot_p99_s", "user_tokens_per_s"}
KNOWN = ("digest", "limits")
SHAPES = {
    "infer": "MODEL --on MACHINE --tp 2",
    "infer apart": "MODEL --on MACHINE --mode disagg",
    "infer loop": "MODEL --on MACHINE --tp 2 --clients 8",
    "search": "MODEL --on MACHINE",
    "search users": "MODEL --on MACHINE --users 20",
    "compare": "MODEL --on MACHINE,hgx-a100",
    "replay": "MODEL --on MACHINE --tp 2 --rate 4/s --requests 30",
    "replay apart": "MODEL --on MACHINE --prefill 1x2 --decode 1x2 --rate 4/s --requests 30",
    "replay loop": "MODEL --on MACHINE --tp 2 --closed-loop 3 --requests 12",
    "centre": "MACHINE --serve MODEL",
}  # fmt: skip


def answered(words: list[str], capsys) -> str:
    """What a command prints."""
    assert cli.main(words, prog_name="taicang", standalone_mode=False) in (None, 0), words
    return capsys.readouterr().out


def gaps(part, key=""):
    """Every figure of what comes after a first token, by its key."""
    if isinstance(part, list):
        return [each for one in part for each in gaps(one)]
    if not isinstance(part, dict):
        return [(key, part)] if key in GAPS and part is not None else []
    return [each for name, one in part.items() if name not in KNOWN for each in gaps(one, name)]


@pytest.mark.parametrize("shape", SHAPES)
def test_no_second_token_has_no_tpot(shape, capsys):
    rng = random.Random(shape)
    model, machine = rng.choice(["llama-3.1-8b", "qwen3-30b-a3b"]), rng.choice(["hgx-h100", "hgx-h20", "atlas-800-a3"])
    words = [shape.split()[0], *SHAPES[shape].replace("MODEL", model).replace("MACHINE", machine).split()]
    words += ["--input", str(rng.randrange(16, 3000)), "--output", "1"]
    free, limited = (json.loads(answered([*words, "--json", *more], capsys)) for more in ([], ["--tpot", "1us"]))
    for answer in (free, limited):
        assert gaps(answer) == []
        assert check(answer) > 0
        assert "no second" in json.dumps(answer)
    assert "binds nothing" in json.dumps(limited)
    said = answered(words, capsys)
    assert re.search(r"no\s+TPOT", said)
    assert not re.search(r"TPOT 0|\bnan\b|\binf\b", said)
    assert ("decode step" in said.partition("assumptions")[0]) <= ("step: unvalidated" in said)


def test_what_asks_for_decode_steps_alone_is_refused(taicang):
    words = ["search", "llama-3.1-8b", "--on", "hgx-h100", "--mode", "decode", "--output", "1"]
    for more in ([], ["--users", "3"]):
        code, _, said = taicang(*words, *more)
        assert (code, len(said.splitlines())) == (2, 1)
        assert "no decode step" in said


def test_lengths_that_nobody_names_are_those_of_one_place(capsys):
    assert (Run(model="m", on="n").input_tokens, Run(model="m", on="n").output_tokens) == USUAL_TOKENS
    on = ["llama-3.1-8b", "--on", "hgx-h100"]
    for name, words in (("infer", on), ("replay", on), ("search", on), ("centre", ["hgx-h100"])):
        taken = fields_of(Run, context_of(cli.get_command(None, name), words).params)
        assert (taken["input_tokens"], taken["output_tokens"]) == USUAL_TOKENS, name
    declared = [file for file in ("shared", "traffic", "load", "train") for part in written(file).values()
                if isinstance(part, dict) and any("input_tokens" in flag for flag in part)]  # fmt: skip
    assert declared == ["shared"]
    for words in (
        "infer llama-3.1-8b --on hgx-h100 --tp 1",
        "replay llama-3.1-8b --on hgx-h100 --rate 2/s --requests 9",
    ):
        for more, said in (([], True), (["--input", "512"], False)):
            assert ("as where none are named" in answered([*words.split(), *more], capsys).replace("\n", " ")) == said


def test_rows_of_a_study_have_bands_of_what_they_say(tmp_path, capsys):
    study = tmp_path / "study.yaml"
    study.write_text("base: {model: llama-3.1-8b, on: hgx-h100, tp: 1}\naxes: {output: [1, 2], mode: [agg, disagg]}\n")
    answered(["sweep", str(study), "--workers", "1"], capsys)
    lines = (tmp_path / "study" / "journal.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "feasible" in row]
    assert len(rows) == 4
    for row in rows:
        assert check(row) > 0
        assert ("tpot" in row["bands"]) == (row["output"] > 1)


def test_pages_and_fronts_of_one_token_have_no_speed(tmp_path, capsys):
    on = ["llama-3.1-8b", "--on", "hgx-h100", "--input", "512", "--output", "1"]
    answered(["search", *on, "--confirm", "0", "--html", str(tmp_path / "page.html")], capsys)
    answered(["compare", *on, "--pareto", str(tmp_path)], capsys)
    assert {"page.html", "pareto.csv"} <= {path.name for path in tmp_path.iterdir()}
