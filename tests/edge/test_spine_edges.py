"""Odd but legal input, and mistakes that once went through in silence."""

import json

import pytest

from taicang import catalog
from taicang.errors import MissingFigure
from taicang.predict import infer

DENSE = ("infer", "llama-3.1-8b", "--on", "hgx-h100")


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (("--tpot", "0ms"), "--tpot: must be more than nothing"),
        (("--tpot", "-50ms"), "--tpot: must be more than nothing"),
        (("--ep", "8"), "--ep: llama-3.1-8b has no experts"),
        (("--tp", "2", "--redundant", "4"), "--redundant: llama-3.1-8b has no experts"),
        (("--quant", "fp9"), "did you mean fp8"),
    ],
)
def test_what_means_nothing_is_refused(taicang, extra, says):
    code, _, err = taicang(*DENSE, *extra)
    assert code == 2
    assert says in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("base: hgx-h100\nchips: 16\nchips: 8\n", "mine.yaml:3: chips: this key stands twice"),
        ("base: hgx-h100\nplanes: 3\n", "mine.yaml:2: planes: is a section"),
    ],
)
def test_a_users_file_is_not_half_read(taicang, tmp_path, text, says):
    (tmp_path / "mine.yaml").write_text(text)
    code, _, err = taicang("infer", "llama-3.1-8b", "--on", str(tmp_path / "mine.yaml"))
    assert code == 2
    assert says in err


def test_supplying_the_missing_figures_one_by_one_leads_to_a_machine():
    needed = {"chip": "h100", "chips": "64", "chips_per_node": "8", "bandwidth": "400 GB/s", "latency": "1 us"}
    sets = []
    for _ in needed:
        with pytest.raises(MissingFigure) as missing:
            catalog.machine("zte-nebula", sets)
        key = missing.value.key
        sets.append(f"{key}={needed[key.split('.')[-1]]}")
    machine = catalog.machine("zte-nebula", sets)
    assert machine.chips == 64
    assert machine.power_w is None


def test_figures_of_the_user_and_lengths_beyond_the_context_are_assumptions():
    sets = ["chip.memory.bandwidth=4 TB/s"]
    said = infer("llama-3.1-8b", "hgx-h100", input_tokens=131_072, output_tokens=10, sets=sets).assumptions
    assert any("set by the user: chip.memory.bandwidth=4 TB/s" in line for line in said)
    assert any("10 beyond llama-3.1-8b's context of 131072" in line for line in said)
    assert not any("expert" in line for line in said)


def test_ttft_with_the_move_of_the_cache_holds_its_limit():
    free = infer("llama-3.1-8b", "hgx-h100", input_tokens=4096, output_tokens=16)
    limit = free.ttft_s * 0.999
    held = infer("llama-3.1-8b", "hgx-h100", input_tokens=4096, output_tokens=16, ttft_s=limit)
    assert held.ttft_s <= limit


@pytest.mark.parametrize(
    ("model", "machine"),
    [
        ("mimo-v2-flash", "hgx-a100 x 4"),
        ("glm-5", "cloudmatrix384"),
        ("gpt-oss-120b", "atlas-950-superpod"),
        ("llama-3.1-8b", "cloudmatrix384"),
    ],
)
def test_every_checkpoint_format_finds_kernels_on_every_architecture(model, machine):
    assert infer(model, machine, input_tokens=1024, output_tokens=64).tpot_s > 0


def test_four_bit_weights_of_a_dense_model_are_its_feed_forward(taicang):
    code, out, _ = taicang(*DENSE, "--quant", "w4a8", "--tp", "1", "--json")
    assert code == 0
    used = json.loads(out)["decode"]["memory"]
    plain = infer("llama-3.1-8b", "hgx-h100", input_tokens=4096, output_tokens=256, quant="int8")
    assert used["dense_bytes"] < 0.6 * plain.decode.memory.dense_bytes


def test_one_machine_without_figures_does_not_stop_a_comparison(taicang):
    where = ("--on", "hgx-h100,zte-nebula")
    code, out, _ = taicang("compare", "llama-3.1-8b", *where, "--json")
    said = json.loads(out)
    assert code == 0
    assert said["hgx-h100"]["tpot_s"] > 0
    assert "no public figure for chip" in said["zte-nebula"]["reason"]
    code, out, _ = taicang("compare", "llama-3.1-8b", *where)
    assert "no public figure for chip" in out
    code, _, err = taicang("compare", "llama-3.1-8b", "--on", "zte-nebula")
    assert code == 2
    assert "no public figure for chip" in err
    assert taicang("compare", "llama-3.1-8b", "--on", ",")[0] == 2
