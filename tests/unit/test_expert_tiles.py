"""Tuned tiles of experts: what the catalogue says of them, and what answers say where there are none."""

import pytest

from taicang import catalog
from taicang.catalog import files
from taicang.catalog.build import chip
from taicang.catalog.costing import tiles_of
from taicang.catalog.stack_entry import engines, order
from taicang.plans import Quantisation, ServePlan
from taicang.predict.serving import infer

SAID = files.read(files.DATA / "tiles.yaml")


@pytest.mark.parametrize("engine", SAID)
def test_tables_are_of_chips_engines_and_releases_that_are_known(engine):
    assert engine in engines()
    assert SAID[engine]["from"]
    since = [order(each) for each in SAID[engine]["generic"]]
    assert since == sorted(since)
    for name, tables in SAID[engine]["tuned"].items():
        assert chip(name).name == name
        for held, widths in tables.items():
            assert held > 0
            for width, release in widths.items():
                assert width > 0
                assert catalog.stack(f"{engine}@{release}").version == release


def test_a_release_has_the_tables_of_those_before_it():
    h100 = chip("h100")
    older, newer = (tiles_of(catalog.stack(f"vllm@{each}"), h100) for each in ("0.8.5", "0.12.0"))
    assert (128, 192) in older.tuned < newer.tuned
    assert older.generic == newer.generic == (64, 64)
    assert tiles_of(catalog.stack("vllm@0.19.0"), h100).generic == (128, 128)
    assert tiles_of(catalog.stack("trtllm"), h100) is None


def notes(stack, on="hgx-h100", **forms):
    asked = {"plan": ServePlan(tp=4, moe_tp=4), "quant": Quantisation(**forms), "modes": ("aggregated",)}
    found = infer("glm-4.5-air-106b-a12b", on, stack=stack, input_tokens=2000, output_tokens=100, **asked)
    return [each for each in found.assumptions if "tuned tiles" in each], found


def test_an_answer_says_that_there_is_no_table_what_it_costs_and_what_to_do(tmp_path):
    (said,), slow = notes(stack="vllm@0.11.0")
    assert "128 experts of 352 columns on h100" in said
    assert "benchmark_moe.py --tune" in said
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: vllm@0.11.0\ntuned_experts: true\n")
    none, tuned = notes(stack=str(mine))
    assert not none
    assert tuned.ttft_s < slow.ttft_s
    assert not notes(stack="vllm@0.19.0")[0]
    assert not notes(stack="vllm@0.11.0", on="hgx-a100")[0]
    assert not notes(stack="vllm@0.11.0", experts="fp8")[0]
