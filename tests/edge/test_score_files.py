"""Evidence files that a user brings: any name, any order, odd lines. What can be scored is; the rest says why not."""

import csv
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.catalog.rules import section
from taicang.errors import InvalidInput
from taicang.evidence import board, intake, kernels, served
from taicang.models.types import routed

GEMM = ["system", "gemm_dtype", "m", "n", "k", "latency_ms_best"]
ROWS = (
    ("h100_sxm", "bfloat16", "128", "4096", "4096", "0.0153"),
    ("a100_sxm", "bfloat16", "4096", "4096", "4096", "0.61"),
    ("h200_sxm", "fp8", "512", "7168", "2048", "0.0234"),
)
SERVED = {
    "id": "x-1", "source": "me", "measured": "2026-01-10", "backend": "vllm", "backend_version": "0.12.0",
    "model_path": "Qwen/Qwen3-32B", "system": "h100_sxm", "precision": "fp8", "mode": "agg", "isl": "1024",
    "osl": "512", "concurrency": "16", "gemm_quant_mode": "fp8", "tp_size": "2", "silicon_ttft_ms": "100",
    "silicon_tpot_ms": "12",
}  # fmt: skip
STEP = """
- id: mine
  step_time_ms_reference: 30.0
  config: {device: ATLAS_800_A3_752T_128G_DIE, model_id: Qwen/Qwen3-30B-A3B, num_queries: 8, query_len: 1,
    context_length: 2000, decode: true, world_size: 4, tp_size: 4, ep_size: 1}
- id: other
  step_time_ms_reference: 30.0
  config: {device: NO_SUCH_THING_AT_ALL, model_id: Qwen/Qwen3-30B-A3B, num_queries: 8, query_len: 1, decode: true}
"""


def table(path, header, rows):
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def test_columns_tell_the_kind_whatever_the_name_and_order(tmp_path):
    turned = [tuple(reversed(row)) for row in reversed(ROWS)]
    plain = intake.your_outcomes(table(tmp_path / "a.csv", GEMM, ROWS))
    other = intake.your_outcomes(table(tmp_path / "b.txt", [*reversed(GEMM)], turned))
    assert len(plain) == len(ROWS)
    assert {o.id: o.predicted for o in plain} == {o.id: o.predicted for o in other}
    assert {o.suite for o in plain} == {"gemm"}
    assert plain[0].unit == "ms"


def test_one_odd_row_costs_coverage_and_nothing_else(tmp_path):
    odd = [
        *ROWS,
        ("tpu_v9", "bfloat16", "128", "128", "128", "1"),
        ("h100_sxm", "fp3", "128", "128", "128", "1"),
        ("h100_sxm", "bfloat16", "many", "128", "128", "1"),
        ("h100_sxm", "bfloat16", "128", "128", "128", ""),
        ("h100_sxm",),
    ]
    found = intake.your_outcomes(table(tmp_path / "odd.csv", GEMM, odd))
    assert len(found) == len(odd)
    assert sum(o.predicted is not None for o in found) == len(ROWS)
    assert all(o.refused for o in found if o.predicted is None)
    alone = {o.id: o.predicted for o in intake.your_outcomes(table(tmp_path / "plain.csv", GEMM, ROWS))}
    assert {o.id: o.predicted for o in found if o.predicted is not None} == alone


def test_served_rows_lack_optional_columns_or_name_unknown_things(tmp_path):
    rows = [SERVED, SERVED | {"id": "x-2", "model_path": "acme/none-9b"}, SERVED | {"id": "x-3", "system": "moon"}]
    path = table(tmp_path / "served.csv", SERVED, [row.values() for row in rows])
    found = intake.your_outcomes(path)
    by = {(o.id, o.suite): o for o in found}
    assert len(by) == len(found) == 12
    assert by["x-1", "served_tpot_agg"].measured == 12.0
    assert by["x-1", "served_tpot_agg"].predicted > 1.0
    assert "acme/none-9b" in by["x-2", "served_tpot_agg"].refused
    assert "moon" in by["x-3", "served_ttft_agg"].refused
    assert by["x-1", "replay_tpot_agg"].predicted > 1.0
    assert "moon" in by["x-3", "replay_ttft_agg"].refused


@pytest.mark.parametrize("column", ["concurrency", "tp_size", "moe_ep_size", "num_prompts", "silicon_tpot_ms"])
@pytest.mark.parametrize("said", ["-8", "many", "inf"])
def test_a_count_that_is_none_is_named_and_never_taken_for_another(tmp_path, column, said, taicang):
    path = table(tmp_path / "served.csv", SERVED | {column: ""}, [(SERVED | {column: said}).values()])
    assert all(f"{column} is '{said}'" in one.refused for one in intake.your_outcomes(path))
    _, shown, _ = taicang("score", str(path))
    assert f"x-1: {column} is '{said}'" in " ".join(shown.split())


def test_it_is_counted_how_many_rows_of_ones_own_lie_in_their_band(tmp_path):
    found = intake.your_outcomes(table(tmp_path / "served.csv", SERVED, [SERVED.values()]))
    alike = [replace(one, measured=one.predicted * times) for one in found for times in (1.0, 100.0, 0.01)]
    banded = sum(board.band_of(one).low_ratio is not None for one in found)
    assert board.in_band(alike) == (banded, 3 * banded)
    assert banded
    assert board.in_band([replace(one, yours=False) for one in alike]) is None


@given(st.data())
@settings(max_examples=6, deadline=None)
def test_a_table_of_ones_own_means_what_served_columns_mean(tmp_path_factory, data):
    """Names that people give columns, however they are written, in any order, and times in seconds."""
    folder = tmp_path_factory.mktemp("own")
    said = {
        "model_path": "meta-llama/Llama-3.1-8B-Instruct", "system": "hgx-h100", "backend": "vllm",
        "backend_version": "0.19.0", "isl": "1000", "osl": "300", "concurrency": "8", "tp_size": "2",
        "silicon_ttft_ms": "80", "silicon_tpot_ms": "6.5",
    }  # fmt: skip
    named = {}
    for column in data.draw(st.permutations(list(said))):
        value = said[column]
        name = data.draw(st.sampled_from([column, *section(served.RULES, "columns")[column]]))
        if name.endswith("_ms") and name != column and data.draw(st.booleans()):
            name, value = f"{name[:-3]}_s", str(float(value) / 1e3)
        write = data.draw(st.sampled_from((str, str.upper, lambda text: f" {text.replace('_', ' ').title()} ")))
        named[name if name == column else write(name)] = value
    if "hgx" in said["system"] and data.draw(st.booleans()):  # a chip stands for its smallest machine
        named = {name: "H100" if value == "hgx-h100" else value for name, value in named.items()}
    plain = intake.your_outcomes(table(folder / "a.csv", list(said), [tuple(said.values())]))
    other = intake.your_outcomes(table(folder / "b.csv", list(named), [tuple(named.values())]))
    assert all(outcome.predicted for outcome in plain)
    assert [(o.suite, o.predicted, o.measured) for o in plain] == [
        (o.suite, o.predicted, pytest.approx(o.measured)) for o in other
    ]


@pytest.mark.parametrize("model", ["Qwen/Qwen3.5-27B", "deepseek-ai/DeepSeek-R1", "openai/gpt-oss-120b"])
@pytest.mark.parametrize(("dp", "ep", "moe_tp"), [("1", "1", 8), ("2", "8", 1), ("4", "4", 2)])
def test_nobody_elses_conventions_are_put_on_rows_of_ones_own(model, dp, ep, moe_tp):
    """Neither the harness nor the launchers of the sources that the rules know: degrees are what they say."""
    cells = SERVED | {"model_path": model, "backend": "sglang", "gemm_quant_mode": "", "precision": "", "isl": "3000"}
    row = served.row_of(cells | {"tp_size": str(8 // int(dp)), "attention_dp_size": dp, "moe_ep_size": ep})
    assert replace(row.settings, memory_ratio=None) == served.Settings()
    assert (row.length_ratio, row.median_gap, row.decode.plan.draft_tokens) == (1.0, False, 0)
    plan = row.decode.plan
    assert (plan.tp, plan.dp) == (8 // int(dp), int(dp))
    assert (plan.ep, plan.moe_tp) == ((int(ep), moe_tp) if routed(row.net) else (1, 8))


def test_what_a_file_lacks_is_said(tmp_path):
    with pytest.raises(InvalidInput, match=r"served rows lack .*silicon_tpot_ms"):
        intake.your_outcomes(table(tmp_path / "a.csv", ["model", "gpu", "clients"], [("qwen3-8b", "H100", "4")]))
    (tmp_path / "bench.json").write_text('{"backend": "vllm", "completed": 3}')
    with pytest.raises(InvalidInput, match="taicang check"):
        intake.your_outcomes(tmp_path / "bench.json")
    names = ["model", "gpu", "clients", "isl", "osl", "tpot_ms"]
    (one, *_) = intake.your_outcomes(table(tmp_path / "b.csv", names, [("qwen3-8b", "H100", 4, 100, 100, 5)]))
    assert "states no engine" in one.refused


def test_reference_steps_of_ascend_are_read_from_yaml(tmp_path):
    (tmp_path / "steps.yaml").write_text(STEP)
    mine, other = intake.your_outcomes(tmp_path / "steps.yaml")
    assert mine.predicted > 0
    assert other.predicted is None
    assert other.refused


def test_a_file_of_no_known_kind_is_refused_by_its_columns(tmp_path):
    with pytest.raises(InvalidInput, match="no kind of evidence has the columns a, b"):
        intake.your_outcomes(table(tmp_path / "what.csv", ["a", "b"], [("1", "2")]))


def test_json_holds_suites_and_rows_as_fractions(taicang, tmp_path):
    path = table(tmp_path / "a.csv", GEMM, [*ROWS, ("tpu_v9", "bfloat16", "128", "128", "128", "1")])
    code, out, _ = taicang("score", path, "--json")
    said = json.loads(out)
    assert code == 0
    keys = {"file", "subset", "metric", "split", "rows", "predicted", "coverage", "mape", "median_ape", "bias"}
    assert all(keys <= suite.keys() for suite in said["suites"])
    assert all({"file", "id", "metric", "measured", "predicted", "reason"} <= row.keys() for row in said["rows"])
    assert sum(suite["rows"] for suite in said["suites"]) == len(said["rows"]) == 4
    assert [row["predicted"] for row in said["rows"]].count(None) == 1
    assert {suite["file"] for suite in said["suites"]} == {str(path)}


def test_a_row_is_explained_and_a_wrong_id_suggested(taicang, tmp_path):
    path = table(tmp_path / "a.csv", SERVED, [SERVED.values()])
    code, out, _ = taicang("score", path, "--row", "x-1")
    assert code == 0
    assert "measured   12.0" in out
    code, _, err = taicang("score", path, "--row", "x-2")
    assert code == 2
    assert "did you mean x-1" in err


def test_an_incomplete_folder_is_scored_as_far_as_it_goes(tmp_path):
    (tmp_path / "kernels").mkdir()
    table(tmp_path / "kernels" / "gemm.csv", GEMM, [*ROWS, ("h100_sxm", "bfloat16", "many", "1", "1", "1")])
    notes = []
    found = list(board.suite_outcomes(tmp_path, ["gemm", "served_tpot_agg"], notes))
    assert sum(o.predicted is not None for o in found) == len(ROWS)
    assert any("served_e2e.csv: absent" in note for note in notes)
    assert any("row by row" in note for note in notes)


PUBLISHED = {
    "id": "p-1", "kind": "collective", "system": "HGX H100", "chip": "H100-SXM", "count": "16", "model": "all_reduce",
    "dtype": "fp32", "par": "{}", "batch": '{"bytes": 1073741824}', "seq": "{}", "metric": "busbw", "value": "340",
    "unit": "GB/s", "src": "me", "sw": "", "grade": "A", "role": "calibration", "extra": "", "notes": "",
}  # fmt: skip
CALL = {
    "id": "p-2", "system": "GB200-NVL72", "chip": "GB200", "count": "8", "model": "MoE dispatch one-sided",
    "dtype": "BF16", "batch": '{"tokens_per_gpu": 96, "hidden": 7168, "topk": 8, "experts": 256}', "metric": "latency",
    "value": "40", "unit": "us",
}  # fmt: skip
TRAINED = {
    "id": "p-3", "kind": "training", "model": "acme-7b", "dtype": "BF16", "par": '{"tp": 1, "pp": 1}', "count": "8",
    "batch": '{"gbs": 128, "mbs": 1}', "seq": '{"seq_len": 4096}', "metric": "step_time", "value": "9", "unit": "s",
    "sw": "nemo@25.04", "extra": '{"arch": {"layers": 32, "hidden": 4096, "ffn": 11008, "heads": 32, "vocab": 32000}}',
}  # fmt: skip


def test_rows_of_a_user_are_theirs_whatever_they_measure(tmp_path):
    rows = [PUBLISHED, PUBLISHED | CALL, PUBLISHED | TRAINED, PUBLISHED | TRAINED | {"id": "p-4", "metric": "outcome"}]
    path = table(tmp_path / "mine.csv", PUBLISHED, [row.values() for row in rows])
    found = {o.id: o for o in intake.your_outcomes(path)}
    assert {o.part for o in found.values()} == {"yours"}
    assert 300 < found["p-1"].predicted < 400  # two nodes, not one NVLink domain
    assert found["p-2"].predicted > 0
    assert found["p-3"].predicted > 0
    assert "not a step" in found["p-4"].refused


def test_files_of_ones_own_in_a_folder_are_ones_own(taicang, tmp_path):
    """Under the names of the evidence, too; and where nothing is predicted there is no figure, and no NaN."""
    table(tmp_path / "served_e2e.csv", list(SERVED), [tuple((SERVED | {"system": "l40s", "tp_size": "1"}).values())])
    wanted = ["served_tpot_agg"]
    (row,) = board.suite_outcomes(tmp_path, wanted)
    assert row.part == "yours"
    huge = SERVED | {"model_path": "meta-llama/Llama-3.1-405B", "precision": "", "gemm_quant_mode": ""}
    table(tmp_path / "served_e2e.csv", list(huge), [tuple(huge.values())])
    code, out, err = taicang("score", "--evidence", tmp_path, "--suite", *wanted)
    assert code == 0, err
    assert "yours" in out
    assert "nan" not in out + err


def test_a_suite_that_does_not_exist_or_is_not_in_the_file_is_refused(taicang, tmp_path):
    path = table(tmp_path / "a.csv", GEMM, ROWS)
    code, _, err = taicang("score", path, "--suite", "gem")
    assert code == 2
    assert "did you mean gemm" in err
    code, _, err = taicang("score", path, "--suite", "nccl")
    assert code == 2
    assert "this file has gemm" in err


def test_a_kernel_suite_of_a_known_operator_is_one_entry_of_a_table(tmp_path, monkeypatch):
    entry = "gemm_yours: {file: kernels/yours.csv, columns: gemm_dtype m n k, by: system gemm_dtype, split: m n k, "
    entry += 'time: latency_ms_best, kernel: "{dtype}", operator: kernels.gemm_operator, price: kernels.gemm_price}\n'
    (tmp_path / "kernels.yaml").write_text(entry, encoding="utf-8")
    (tmp_path / "kernels").mkdir()
    table(tmp_path / "kernels" / "yours.csv", GEMM, ROWS)
    monkeypatch.setattr(kernels, "CARRIED", tmp_path)
    kernels.tables.cache_clear()
    try:
        found = list(kernels.outcomes(tmp_path))
    finally:
        kernels.tables.cache_clear()
    assert len(found) == len(ROWS)
    assert all(o.predicted for o in found)
