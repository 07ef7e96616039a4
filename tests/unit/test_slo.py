"""Named service-level objectives."""

from __future__ import annotations

import pytest

from taicang.catalog.models import model
from taicang.catalog.profiles import slo, slos
from taicang.errors import InvalidInput, UnknownName


def test_presets_of_mlperf():
    found = slo("mlperf-interactive", "deepseek-r1")
    assert (found.ttft_s, found.tpot_s, found.within_ratio) == (1.5, 0.015, 0.99)
    assert "mlperf.conf" in found.place
    assert found.source.tier == "primary"
    assert slo("mlperf-server@llama-2-70b", "qwen3-32b").tpot_s == 0.2


def test_every_model_is_in_the_catalogue_and_interactive_is_stricter():
    for presets in slos().values():
        for name, found in presets.items():
            assert model(name).name == name
            assert 0 < found.tpot_s < found.ttft_s
    for name, strict in slos()["mlperf-interactive"].items():
        loose = slos()["mlperf-server"][name]
        assert strict.ttft_s <= loose.ttft_s
        assert strict.tpot_s < loose.tpot_s


def test_what_is_unknown_is_refused_with_what_is_known():
    with pytest.raises(UnknownName, match="mlperf-interactive"):
        slo("mlperf-interactiv", "deepseek-r1")
    with pytest.raises(InvalidInput, match=r"no limits for mixtral-8x7b.*llama-2-70b"):
        slo("mlperf-interactive", "mixtral-8x7b")
