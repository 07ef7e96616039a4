"""Traces as users have them, faults included: refused with file and line, or mended on request and counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from taicang.errors import InvalidInput
from taicang.traffic.change import faster, take, thin
from taicang.traffic.read import read_trace
from taicang.traffic.trace import infinite_hit_ratio, info

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
needs_traces = pytest.mark.skipif(not SHARED.is_dir(), reason="no public traces beside the repository (shared/traces)")


def put(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def rows(*items):
    return "".join(json.dumps(item) + "\n" for item in items)


def mooncake(at, tokens, out=5, ids=None):
    return {"timestamp": at, "input_length": tokens, "output_length": out, "hash_ids": ids or []}


def test_dates_with_and_without_zone_and_fraction(tmp_path):
    text = AZURE + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:47,10,2\n"
    assert read_trace(put(tmp_path, text)).arrival_s == pytest.approx([0.0, 0.31941])
    zoned = AZURE + "2024-05-12 00:00:00.5+00:00,1,2\n2024-05-12 00:00:01+00:00,1,2\n"
    assert read_trace(put(tmp_path, zoned)).arrival_s == pytest.approx([0.0, 0.5])


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (AZURE + "2023-11-16 18:15:46,374,44\n2023-11-16 18:15:45,374,44\n", 3, "time goes back by 1 s"),
        (AZURE + "2023-11-16 18:15:46,-4,44\n", 2, "input of -4 tokens"),
        (AZURE + "2023-11-16 18:15:46,4,0\n", 2, "output of 0 tokens"),
        (AZURE + "2023-11-16 18:15:46,99999999,1\n", 2, "beyond any model"),
        (AZURE + "2023-11-16 18:15:46,4.5,1\n", 2, "not a number of tokens"),
        (AZURE + "2023-11-16 18:15:46,4\n", 2, "2 cells, the header has 3"),
        (AZURE + "yesterday,4,1\n", 2, "not a date"),
        ("a,b\n1,2\n", 1, "no known format"),
        (rows(mooncake(0, 600, ids=[1, 2]), mooncake(1, 600, ids=[1])), 2, "1 hash ids for 600 tokens"),
        (rows(mooncake(0, 10), mooncake(4e12, 10)), 2, "mixed units"),
        (rows(mooncake(0, 10)) + "{oops\n", 2, "not JSON"),
        (rows(mooncake(1e300, 10), mooncake(2000, 10)), 1, "beyond the year 9999"),
        (rows({"messages": []}), 1, "has text"),
        ("", 1, "empty"),
    ],
)
def test_faults_name_file_and_line(tmp_path, text, line, says):
    path = put(tmp_path, text)
    with pytest.raises(InvalidInput, match=says) as caught:
        read_trace(path)
    assert caught.value.where == f"{path}:{line}"


def test_a_truncated_gzip_names_the_line_where_it_ends(tmp_path):
    path = tmp_path / "t.jsonl.gz"
    noise = np.random.default_rng(0).integers(1, 9999, 5000)
    path.write_bytes(gzip.compress(rows(*(mooncake(i, int(n)) for i, n in enumerate(noise))).encode())[:-9000])
    with pytest.raises(InvalidInput, match="damaged gzip") as caught:
        read_trace(path)
    assert int(caught.value.where.rsplit(":", 1)[1]) > 100


def test_repair_drops_sorts_and_counts(tmp_path):
    text = AZURE + "2023-11-16 18:15:46,1,1\n2023-11-16 18:15:45,2,1\n2023-11-16 18:15:47,-3,1\n"
    trace = read_trace(put(tmp_path, text), repair=True)
    assert trace.input_tokens.tolist() == [2, 1]
    assert trace.repaired == {"rows out of order": 1, "rows dropped": 1}


def test_other_formats(tmp_path):
    burst = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,m,100,20,120,x\n"
    assert read_trace(put(tmp_path, burst)).kind == "burstgpt"
    lengths = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n5,6,11,1\n"
    assert len(read_trace(put(tmp_path, lengths)).arrival_s) == 0
    split = (
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n0,2,0,1.5,1,7,8\n"
    )
    assert read_trace(put(tmp_path, split)).output_tokens.tolist() == [8]
    sim = rows({"input_toks": 4, "output_toks": 5, "arrival_time_ns": 10**9}, {"input_toks": 4, "output_toks": 5, "arrival_time_ns": 3 * 10**9})  # fmt: skip  # noqa: E501
    assert read_trace(put(tmp_path, sim)).span_s == pytest.approx(2.0)


@needs_traces
def test_public_traces():
    azure = read_trace(SHARED / "azure_llm_2023_conv.csv.gz")
    assert (len(azure), round(azure.span_s)) == (19366, 3502)
    moon = read_trace(SHARED / "mooncake_fast25_conversation.jsonl.gz")
    assert (len(moon), moon.block) == (12031, 512)
    assert infinite_hit_ratio(moon) == pytest.approx(0.366, abs=0.01)
    bailian = read_trace(SHARED / "bailian_traceA_first14.jsonl")
    assert (bailian.kind, len(bailian), bailian.block) == ("bailian", 14, 16)
    assert len(read_trace(SHARED / "azure_llm_2024_fixture_head_tail.csv", repair=True)) == 10
    half = thin(azure, 0.5, 1)
    assert abs(len(half) / len(azure) - 0.5) < 0.02
    assert faster(azure, 2.0).span_s == pytest.approx(azure.span_s / 2)
    assert len(take(moon, 7)) == 7
    assert info(moon)["input_mean"] == pytest.approx(12035, abs=1)
