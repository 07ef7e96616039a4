"""A question written down and asked again is the same question: the same answer, the same digest, the same bytes."""

import json
import random
import re
import shlex
import sys
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taicang.app.ask_cmd import ANSWERING, OUTPUT, Asking, key_of
from taicang.app.main import COMMANDS as COMMANDS_OF
from taicang.app.main import LazyGroup, cli
from taicang.errors import TaicangError

sys.path.insert(0, str(Path(__file__).parents[1] / "edge"))
import hostile_lines
from hostile import value as hostile_value

LENGTHS = st.integers(0, 12).map(lambda power: str(2**power))
SERVING = {
    "--placement": st.sampled_from(["random", "random:7"]), "--fabric": st.sampled_from(["flows", "ecmp"]),
    "--input": LENGTHS, "--output": LENGTHS, "--tpot": st.sampled_from(["20ms", "0.1 s", "1s"]),
    "--ttft": st.sampled_from(["500ms", "30 s"]), "--quant": st.sampled_from(["auto", "bf16", "fp8"]),
    "--acceptance": st.sampled_from(["0", "0.55", "1"]), "--skew": st.sampled_from(["0", "1.2"]),
    "--set": st.sampled_from(["chip.memory.bandwidth=4 TB/s", "chip.memory.capacity=120 GB"]),
}  # fmt: skip
COMMANDS = {
    "infer": (["qwen3-32b", "--on", "hgx-h200"], SERVING | {"--tp": st.sampled_from(["1", "4"])}),
    "compare": (["qwen3-32b", "--on", "hgx-h200,hgx-h100"], SERVING | {"--budget": st.just("500kW")}),
    "search": (
        ["qwen3-32b", "--on", "hgx-h200", "--confirm", "0", "--no-explain"],
        SERVING | {"--mode": st.sampled_from(["agg", "disagg", "both"]), "--top": st.just("2")},
    ),
    "replay": (
        ["qwen3-32b", "--on", "hgx-h200", "--requests", "20", "--rate", "2/s"],
        {
            "--input": LENGTHS, "--output": LENGTHS, "--spread": st.just("0.5"), "--max-batch": st.just("8"),
            "--process": st.sampled_from(["gamma", "uniform"]), "--seed": st.just("7"), "--tp": st.just("2"),
            "--random-think": st.none(), "--slo": st.just("mlperf-server@llama-2-70b"),
        },
    ),
    "train": (
        ["llama-3.1-8b", "--on", "hgx-h100"],
        {
            "--micro-batch": st.just("2"), "--zero": st.sampled_from(["0", "fsdp", "zero2"]), "--no-sp": st.none(),
            "--tokens": st.sampled_from(["2T", "300B"]), "--mtbf": st.just("chip=50000h"), "--seq": LENGTHS,
            "--restart": st.just("5min"), "--recompute": st.sampled_from(["selective", "full"]),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_question_written_down_gives_the_same_answer(command, data, taicang, tmp_path):
    words, options = COMMANDS[command]
    chosen = data.draw(st.lists(st.sampled_from(sorted(options)), unique=True, max_size=5))
    drawn = {name: data.draw(options[name]) for name in chosen}
    asked = [word for name, value in drawn.items() for word in ([name] if value is None else [name, value])]
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    code, out, err = taicang(command, *words, *asked, "--json", "--save", first)
    if code == 2 and not first.exists():  # the command line itself is refused
        return
    again = taicang("ask", first, "--json", "--save", second)
    assert (code, out) == again[:2], err + again[2]
    assert first.read_bytes() == second.read_bytes()


def test_what_was_filled_in_outlives_a_default_that_moves(taicang, tmp_path):
    file = tmp_path / "run.yaml"
    taicang("infer", "qwen3-32b", "--on", "hgx-h200", "--save", file)
    assert "input: 4096" in file.read_text()
    file.write_text(file.read_text().replace("input: 4096", "input: 128"))
    _, out, _ = taicang("ask", file, "--json")
    assert json.loads(out)["input_tokens"] == 128


def test_options_behind_the_file_change_the_question(taicang, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("ask: infer\nmodel: qwen3-32b\non: hgx-h200\ninput: 512\n")
    _, changed, _ = taicang("ask", file, "--on", "hgx-h100", "--json")
    _, direct, _ = taicang("infer", "qwen3-32b", "--on", "hgx-h100", "--input", "512", "--json")
    assert changed == direct


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: qwen3-32b\n", "needs 'ask'"),
        ("ask: inferr\n", "run.yaml:1: ask: unknown command 'inferr'; did you mean infer"),
        ("ask: infer\nmodel: qwen3-32b\non: hgx-h200\nimput: 5\n", "run.yaml:4: imput: unknown key"),
        (
            "ask: infer\nmodel: qwen3-32b\non: hgx-h200\ndefaults: {qant: fp8}\n",
            "run.yaml:4: defaults.qant: unknown key",
        ),
        ("ask: infer\nmodel: qwen3-32b\non: hgx-h200\ntp: [1, x]\n", "run.yaml:4: tp:"),
        ("ask: infer\nmodel: qwen3-32b\non: hgx-h200\ntpot: 50 kg\n", "run.yaml:4: tpot:"),
        ("ask: infer\nmodel: qwen3-32b\non: hgx-h200\napproximate: maybe\n", "run.yaml:4: approximate:"),
        ("ask: infer\nmodel: {a: 1}\non: hgx-h200\n", "run.yaml:2: model:"),
        ("ask: infer\nmodel: qwen3-32b\n", "Missing option '--on'"),
        ("ask: infer\ndefaults: 3\n", "run.yaml:2: defaults: expected a mapping"),
        ("- 1\n", "run.yaml:1: expected a mapping"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_by_its_place(text, said, taicang, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    code, out, err = taicang("ask", file)
    assert code == 2
    assert said in err
    assert not out


def test_the_page_on_questions_shows_what_is_written(taicang, tmp_path):
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "questions.md").read_text("utf-8")
    command = re.search(r"\$ taicang (infer .*) --save", page)[1]
    shown = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]
    taicang(*shlex.split(command), "--save", tmp_path / "run.yaml")
    assert (tmp_path / "run.yaml").read_text().partition("\n")[2] == shown


def documented():
    """Command lines of the documentation that ask a question, by command."""
    found = {}
    for words in hostile_lines.examples():
        if words[0] in ANSWERING and "run" not in words[1:2] and len(words) > 3:
            found.setdefault(words[0], []).append(words)
    return found


def test_a_command_has_save_where_ask_answers_it():
    group = LazyGroup(commands={})
    saves = {name for name in COMMANDS_OF if isinstance(group.get_command(click.Context(group), name), Asking)}
    assert saves == set(ANSWERING) == set(documented())


@pytest.mark.parametrize("command", ANSWERING)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 10**6))
def test_a_file_asks_what_any_command_line_did(command, seed, tmp_path, monkeypatch):
    """All that the command is given is the same, so the answer is; lines of the documentation, changed a little."""
    asked, invoke = [], click.Command.invoke

    def noted(self, context):
        if not isinstance(self, Asking):
            return invoke(self, context)
        shown = {each.name for each in self.params if key_of(each) in OUTPUT}
        return asked.append({name: each for name, each in context.params.items() if name not in shown})

    monkeypatch.setattr(click.Command, "invoke", noted)
    hostile_lines.furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    rng = random.Random(seed)
    words = hostile_lines.argv(
        rng, lambda each, hostile: hostile_value(rng, each, tmp_path, hostile), documented()[command]
    )
    try:
        for line in ([*words, "--save", "first.yaml"], ["ask", "first.yaml"]):
            cli.main(line, standalone_mode=False)
    except (TaicangError, click.ClickException):  # refused as it stands
        assert not asked, words
        return
    assert asked[:1] == asked[1:], words
