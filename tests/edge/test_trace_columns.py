"""Tables of any names: told by known names, named by the user, nested or flat, CSV or JSON; failures left out."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taicang.errors import InvalidInput
from taicang.traffic.columns import NAMES, UNITS, parse
from taicang.traffic.read import read_trace

IDS = ("input_ids", "prompt_token_ids")
requests = st.lists(
    st.tuples(st.integers(0, 1_000_000), st.integers(1, 5000), st.integers(1, 900)), min_size=1, max_size=11
)


def nested(row):
    """Keys that are paths as objects in objects."""
    made: dict = {}
    for key, value in row.items():
        *outer, last = key.split(".")
        inside = made
        for name in outer:
            inside = inside.setdefault(name, {})
        inside[last] = value
    return made


def written(rows, kind):
    if kind == "csv":
        out = io.StringIO()
        table = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        return out.getvalue()
    objects = [nested(row) for row in rows]
    return json.dumps(objects) if kind == "array" else "".join(json.dumps(each) + "\n" for each in objects)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=requests,
    names=st.tuples(*(st.sampled_from(NAMES[field]) for field in ("input", "output", "arrival"))),
    kind=st.sampled_from(["csv", "lines", "array"]),
    timed=st.booleans(),
)
def test_known_names_are_read_wherever_they_stand(rows, names, kind, timed, tmp_path):
    inp, out, at = names
    rows = sorted(rows)
    unit = UNITS.get(at.rpartition("_")[2], 1.0)
    made = [
        {inp: [7] * i if inp in IDS and kind != "csv" else i, out: o} | ({at: round(s / unit)} if timed else {})
        for s, i, o in rows
    ]
    path = tmp_path / "requests.any"
    path.write_text(written(made, kind))
    found = read_trace(path)
    assert found.input_tokens.tolist() == [i for _, i, _ in rows]
    assert found.output_tokens.tolist() == [o for _, _, o in rows]
    if timed:
        np.testing.assert_allclose(found.arrival_s, [s - rows[0][0] for s, _, _ in rows], atol=1e-6)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=requests, unit=st.sampled_from(["ns", "us", "ms", "s"]), kind=st.sampled_from(["csv", "lines", "array"]))
def test_the_user_names_the_columns_and_their_unit(rows, unit, kind, tmp_path):
    rows = sorted(rows)
    made = [{"wann": round(s / UNITS[unit]), "rein": i, "raus": o, "wer": str(o % 3)} for s, i, o in rows]
    path = tmp_path / "requests.any"
    path.write_text(written(made, kind))
    found = read_trace(path, columns=parse(f"arrival=wann:{unit},input=rein,output=raus,session=wer"))
    assert found.input_tokens.tolist() == [i for _, i, _ in rows]
    assert len(set(found.session.tolist())) == len({o % 3 for _, _, o in rows})
    np.testing.assert_allclose(found.arrival_s, [s - rows[0][0] for s, _, _ in rows], atol=1e-6)


def test_dates_are_times(tmp_path):
    path = tmp_path / "gateway.csv"
    path.write_text("startTime,prompt_tokens,completion_tokens\n2026-01-05T08:00:00.5,5,6\n2026-01-05T08:00:02,7,8\n")
    assert read_trace(path).arrival_s.tolist() == pytest.approx([0.0, 1.5])


def test_failed_requests_are_left_out_and_counted(tmp_path):
    path = tmp_path / "r.jsonl"
    rows = [
        {"input_tokens": 5, "output_tokens": 6, "error": None},
        {"input_tokens": 5, "output_tokens": 0, "error": "x"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_trace(path)
    assert len(found) == 1
    assert found.notes == ("1 failed requests left out",)


def test_runs_of_a_benchmark_follow_each_other_and_their_starts_are_used(tmp_path):
    one = {"input_lens": [5, 6], "output_lens": [7, 8], "start_times": [100.5, 100.0], "errors": ["", ""]}
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(one))
    found = read_trace(path)
    assert (found.input_tokens.tolist(), found.arrival_s.tolist()) == ([6, 5], [0.0, 0.5])
    path.write_text("".join(json.dumps(one | {"errors": ["", "late"]}) + "\n" for _ in range(3)))
    found = read_trace(path)
    assert found.input_tokens.tolist() == [5, 5, 5]
    assert not len(found.arrival_s)
    assert any("3 runs" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "columns", "said"),
    [
        ("a,b\n1,2\n", None, "name the columns: --columns"),
        ("prompt_tokens,input_tokens,output_tokens\n1,2,3\n", None, "could both be the input"),
        ("a,b\n1,2\n", "input=a,output=c", "unknown column 'c'"),
        ("a,b\n1,2\n", "input=a", "output is not named"),
        ("a,b\n1,2\n", "inptu=a,output=b", "did you mean input"),
        ("a,b\n1,2\n", "input=a,output", "expected FIELD=COLUMN"),
        ("prompt_tokens,output_tokens\n1.5,2\n", None, "not a number of tokens"),
    ],
)
def test_what_cannot_be_read_says_what_is_needed(text, columns, said, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=said):
        read_trace(path, columns=parse(columns) if columns else None)


def test_single_turns_share_a_prefix(taicang):
    words = ["llama-3.1-8b", "--on", "hgx-h100", "--closed-loop", "4", "--input", "1000", "--output", "20"]
    code, out, err = taicang("replay", *words, "--requests", "16", "--shared", "8000", "--json")
    assert code == 0, err
    assert '"cached_ratio": 0.6' in out


STYLES = (str, str.upper, str.title, lambda name: name.replace("_", " "), lambda name: name.replace("_", " ").title(),
          lambda name: name.replace("_", "-"))  # fmt: skip
PLAIN = {field: [name for name in names if "." not in name and "@" not in name and name not in IDS and "_s" not in name]
         for field, names in NAMES.items() if field in ("input", "output", "arrival")}  # fmt: skip


@settings(max_examples=80, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=requests, mark=st.sampled_from(",;\t"), style=st.sampled_from(STYLES), data=st.data())
def test_names_are_known_however_they_are_written_and_parted(rows, mark, style, data, tmp_path):
    rows = sorted(rows)
    names = [style(data.draw(st.sampled_from(PLAIN[field]))) for field in ("arrival", "input", "output")]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(mark.join(map(str, row)) for row in [names, *rows]) + "\n")
    found = read_trace(path)
    assert found.input_tokens.tolist() == [row[1] for row in rows]
    assert found.output_tokens.tolist() == [row[2] for row in rows]
    assert found.arrival_s.size == len(rows)


@pytest.mark.parametrize(
    "header",
    ["Time,Request tokens,Response tokens", "arrival_time,num_prefill_tokens,num_decode_tokens",
     "Start Time,prompt_size,token_size", "ts,ContextTokens,GeneratedTokens"],
)  # fmt: skip
def test_the_time_of_a_known_table_may_stand_in_another_column(header, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(f"{header}\n5,100,20\n45,110,30\n")
    assert read_trace(path).span_s == 40.0
