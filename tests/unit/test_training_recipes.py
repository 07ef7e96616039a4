"""What published training recipes leave to their repository."""

from __future__ import annotations

import pytest

from taicang.evidence.recipes import recipe_of, stages


def test_recomputed_parts() -> None:
    assert recipe_of("recomputed", "DeepSeekV3 (w/o MTP)", "H100-SXM", "FP8")["parts"] == ["up", "mlp"]
    assert recipe_of("recomputed", "DeepSeekV3", "GB300", "MXFP8") == {}
    assert "experts" in recipe_of("recomputed", "Nemotron_3_Nano", "H100-SXM", "FP8")["parts"]
    assert recipe_of("recomputed", "Llama-3.1-8B", "H100-SXM", "FP8") == {}


@pytest.mark.parametrize(("chunks", "first", "last"), [(4, "E16", "13ML"), (16, "E4", "1ML"), (32, "E1", "0ML")])
def test_uneven_stages_hold_all_layers(chunks: int, first: str, last: str) -> None:
    parts = stages("DeepSeekV3", 61, chunks).split(",")
    assert (parts[0], parts[-1], len(parts)) == (first, last, chunks)
    assert sum(int(part.strip("EML")) for part in parts) == 61


def test_other_models_are_dealt_evenly() -> None:
    assert stages("Qwen3_235B_a22B", 94, 8) == ""
    assert stages("DeepSeekV3", 61, 1) == ""
