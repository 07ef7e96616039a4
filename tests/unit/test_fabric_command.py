"""``taicang fabric`` as a user meets it, and --fabric beside the other commands."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.app.main import cli
from taicang.catalog import trust, trust_links
from taicang.errors import TaicangError


def said(*words):
    result = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words):
    result = CliRunner().invoke(cli, list(words))
    assert result.exit_code != 0
    return str(result.exception) if isinstance(result.exception, TaicangError) else result.output


def test_a_topology_says_its_parts():
    text = said("fabric", "cloudmatrix384")
    assert "5,376 link" in text
    assert "112 l2-switch" in text.replace("\n", " ")
    assert json.loads(said("fabric", "cloudmatrix384", "--json"))["parts"]["module"] == 5376


@pytest.mark.parametrize(
    "words",
    [
        ("cloudmatrix384", "--collective", "all-to-all", "--ranks", "320", "--bytes", "7.5KB*128*8", "--skew", "1.1"),
        ("dgx-h100-nvl256", "--collective", "all-reduce", "--bytes", "1GB", "--fail", "l2-switch:2"),
        ("hgx-a100 x 128", "--collective", "all-gather", "--bytes", "512MB", "--routing", "ecmp", "--seeds", "3"),
        ("cloudmatrix384", "--collective", "dispatch", "--ranks", "32", "--bytes", "7680B"),
        ("cloudmatrix384", "--collective", "combine", "--ranks", "32", "--bytes", "7680B", "--skew", "1.0"),
        ("gb200-nvl72", "--collective", "reduce-scatter", "--bytes", "1GB", "--algorithm", "direct"),
        ("cloudmatrix384", "--collective", "send", "--ranks", "17", "--bytes", "512B", "--verb", "npu/read"),
        ("hgx-h100 x 4", "--collective", "all-reduce", "--bytes", "1GB", "--algorithm", "hierarchical", "--shuffled"),
        ("hgx-h100 x 4", "--collective", "all-to-all", "--bytes", "1GB", "--beside", "all-reduce:4GB"),
    ],
)  # fmt: skip
def test_collectives_say_their_times_and_hottest_links(words):
    assert "on the links" in said("fabric", *words)
    found = json.loads(said("fabric", *words, "--json"))
    assert found["wire_s"] > 0
    assert found["hottest"][0]["used_ratio"] <= 1.0 + 1e-9
    assert found["hottest"][0]["busy_s"] <= found["most_s"] * (1 + 1e-9)


@pytest.mark.parametrize(
    "words",
    [
        ("cloudmatrix384", "all-to-all", "--ranks", "40", "--skew", "1.1"),
        ("hgx-h100 x 4", "all-reduce", "--algorithm", "hierarchical"),
        ("hgx-h100 x 4", "all-gather", "--beside", "all-to-all:200MB", "--beside", "send:1GB"),
        ("cloudmatrix384", "combine", "--ranks", "24", "--skew", "0.7"),
    ],
)
def test_the_links_over_time_carry_what_they_carry(words, tmp_path):
    """The time integral of each level's use is what its links in use carry in the mean."""
    file = tmp_path / "trace.json"
    found = json.loads(said("fabric", words[0], "--collective", words[1], "--bytes", "1MB", *words[2:],
                            "--perfetto", str(file), "--json"))  # fmt: skip
    busy = {
        level: sum((each["end_s"] - each["begin_s"]) * each["used_ratio"][level] for each in found["course"])
        for level in found["course"][0]["used_ratio"]
    }
    if "--beside" not in words:
        for level in found["levels"]:
            assert busy[level["level"]] == pytest.approx(level["busy_s"] * level["mean_ratio"], rel=1e-6)
    assert all(0.0 <= share <= 1.0 + 1e-9 for each in found["course"] for share in each["used_ratio"].values())
    events = json.loads(file.read_text())["traceEvents"]
    assert {each["ph"] for each in events} == {"M", "X", "C"}
    ends = [each["ts"] + each["dur"] for each in events if each["ph"] == "X"]
    assert max(ends) == pytest.approx(found["course"][-1]["end_s"] * 1e6, rel=1e-6)


def test_draws_logical_machines_and_axes():
    draws = json.loads(said("fabric", "cloudmatrix384", "--draws", "50", "--json"))
    assert {part["kind"] for part in draws["parts"]} == {
        "node",
        "chip",
        "l1-switch",
        "l2-switch",
        "module",
        "rdma module",
    }
    beside = ("fabric", "cloudmatrix384", "--draws", "50", "--against", "gb200-nvl72,dgx-h100-nvl256")
    assert [each["machine"] for each in json.loads(said(*beside, "--json"))] == [
        "cloudmatrix384", "gb200-nvl72", "dgx-h100-nvl256"
    ]  # fmt: skip
    assert max(map(len, said(*beside).splitlines())) <= 80
    assert "42" in said("fabric", "cloudmatrix384", "--logical", "288,256")
    assert "nvlink 100%" in said("fabric", "hgx-h100 x 4", "--axes", "tp=8,dp=4", "--bytes", "1GB")


def test_pictures_are_written(tmp_path):
    words = ("fabric", "dgx-h100-nvl256", "--collective", "all-to-all", "--bytes", "1GB", "--fail", "l2-switch:2")
    said(*words, "--svg", str(tmp_path / "a.svg"), "--html", str(tmp_path / "a.html"))
    assert ET.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--collective", "all-reduse", "--bytes", "1GB"), "all-reduce"),
        (("--collective", "all-reduce", "--bytes", "1"), "unit"),
        (("--collective", "all-reduce"), "--bytes"),
        (("--collective", "all-reduce", "--bytes", "1GB", "--ranks", "9999"), "--ranks"),
        (("--collective", "all-reduce", "--bytes", "1GB", "--algorithm", "rng"), "ring"),
        (("--collective", "all-reduce", "--bytes", "1GB", "--skew", "zipf:1"), "skew"),
        (("--collective", "all-to-all", "--bytes", "1GB", "--skew", "zipf:9"), "0 to 2"),
        (("--fail", "l2-swtch:1"), "l2-switch"),
        (("--collective", "all-gather", "--bytes", "1GB", "--beside", "all-gathr:1GB"), "all-gather"),
        (("--collective", "all-gather", "--bytes", "1GB", "--beside", "all-gather"), "KIND:BYTES"),
        (("--plane", "scaleup"), "scale_up"),
        (("--logical", "100"), "nodes"),
        (("--axes", "tp=8,tp=4", "--bytes", "1GB"), "distinct"),
        (("--draws", "10", "--logical", "96"), "at a time"),
        (("--collective", "send", "--bytes", "1B", "--ranks", "17", "--verb", "npu/rad"), "npu/read"),
        (("--collective", "dispatch", "--bytes", "1KB", "--ranks", "8", "--topk", "300"), "--topk"),
    ],
)
def test_what_is_wrong_is_named(words, wanted):
    assert wanted in refused("fabric", "cloudmatrix384", *words)


def test_a_training_step_costs_the_same_by_links():
    words = ("train", "llama-3-8b", "--on", "hgx-h100 x 2", "--global-batch", "128", "--json")
    one, two = (
        json.loads(said(*words, *more))["prediction"]["step"]["seconds"] for more in ((), ("--fabric", "flows"))
    )
    assert two == pytest.approx(one, rel=0.02)


def test_other_commands_take_the_fabric_link_by_link():
    words = ("infer", "deepseek-r1", "--on", "cloudmatrix384", "--tp", "1", "--dp", "256", "--batch", "48", "--json")
    closed, lined = json.loads(said(*words)), json.loads(said(*words, "--fabric", "flows"))
    assert lined["tpot_s"] == pytest.approx(closed["tpot_s"], rel=0.02)
    broken = json.loads(said(*words, "--fabric", "flows", "--set", "links.failed=plane:6"))
    assert broken["tpot_s"] > 1.05 * closed["tpot_s"]
    assert "ecmp" in refused(*words, "--fabric", "emcp")


def test_an_engine_s_own_all_reduce(taicang):
    ask = ["fabric", "hgx-h100", "--collective", "all-reduce", "--bytes", "1MB", "--json"]
    plain, own = (json.loads(taicang(*ask, *more)[1]) for more in ((), ("--stack", "vllm")))
    assert own["closed_s"] < 0.8 * plain["closed_s"]
    assert own["wire_s"] == plain["wire_s"]
    code, _, said = taicang(*ask[:3], "all-gather", *ask[4:], "--stack", "vllm")
    assert code == 2
    assert "--stack: changes nothing but --collective all-reduce" in said


def banded(*words):
    found = json.loads(said("fabric", *words, "--json"))
    assert found["sources"]
    return found, found["bands"]["library"], found["bands"]["closed form"]


def test_a_collective_says_how_far_it_may_be_off():
    found, library, closed = banded("hgx-h100", "--collective", "all-reduce", "--bytes", "1GB")
    assert library == closed
    assert closed["verdict"] == "nine in ten"
    assert 0.8 < closed["low_ratio"] < 1.0 < closed["high_ratio"] < 1.25
    assert found["digest"]
    assert "half within" in said("fabric", "hgx-h100", "--collective", "all-reduce", "--bytes", "1GB")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("cloudmatrix384", "--collective", "all-reduce", "--bytes", "1GB"), "no measured all-reduce over ub-a3"),
        (("hgx-h100", "--collective", "all-reduce", "--bytes", "1TB"), "bytes"),
        (("hgx-h100", "--collective", "send", "--ranks", "2", "--bytes", "1MB"), "no measured send"),
        (("hgx-h100", "--set", "planes.scale_up.nvlink.bandwidth=2 TB/s", "--collective", "all-reduce",
          "--bytes", "1MB"), "links of"),
        (("examples/networks/pcie-box.yaml", "--collective", "all-reduce", "--bytes", "1GB"), "graph"),
    ],
)  # fmt: skip
def test_what_nobody_measured_near_is_unvalidated(words, why):
    _, library, closed = banded(*words)
    for band in (library, closed):
        assert band["verdict"] == "unvalidated"
        assert why in band["basis"]
        assert band["low_ratio"] is None


@given(
    on=st.sampled_from(sorted(catalog.names("machine"))), ranks=st.integers(1, 2000), size=st.floats(0.0, 40.0),
    kind=st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "dispatch", "combine", "send"]),
)  # fmt: skip
@settings(derandomize=True, max_examples=300, deadline=None)
def test_a_band_is_earned_by_rows_of_such_links_of_about_that_size(on, ranks, size, kind):
    try:
        level = trust_links.met(catalog.machine(on), ranks)
    except TaicangError:  # a machine of which not enough is published
        return
    key = trust_links.links_key(kind, level)
    asked = {"ranks": ranks, "sent_bytes": 2.0**size, "bytes_per_s": level.bandwidth_bytes_per_s}
    band, pool = trust_links.links_band(key, **asked), trust.recorded()["collectives"].get(key)
    near = pool and all(pool[name][0] / 2.0 <= value <= pool[name][1] * 2.0 for name, value in asked.items())
    assert (band.verdict == trust.NINE_IN_TEN) == bool(near)
    assert band.rows == (pool["rows"] if near else 0)
