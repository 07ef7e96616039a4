"""Every format that users have, with its pitfalls."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from taicang.errors import InvalidInput, NotModelled
from taicang.traffic.read import read_trace
from taicang.traffic.texts import counter
from taicang.traffic.write import write


def put(tmp_path, rows, name="t.jsonl"):
    path = tmp_path / name
    path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def refused(path, says, **options):
    with pytest.raises(InvalidInput, match=says) as caught:
        read_trace(path, **options)
    return caught.value.where


def test_azure_multimodal_says_what_it_does_not_use(tmp_path):
    text = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2025-01-01 00:00:00Z,3,10,2\n"
    assert read_trace(put(tmp_path, text, "a.csv")).notes == ("NumImages is not used",)


def test_rows_with_and_without_a_time_zone_do_not_mix(tmp_path):
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-12 00:00:00,1,2\n2024-05-12 00:00:01+08:00,1,2\n"
    path = put(tmp_path, text, "a.csv")
    assert refused(path, "time zone") == f"{path}:3"


def test_a_negative_zone_is_a_zone(tmp_path):
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-12 00:00:00.25-05:00,1,2\n2024-05-12 05:00:01+00:00,1,2\n"
    assert read_trace(put(tmp_path, text, "a.csv")).span_s == pytest.approx(0.75)


def test_failed_requests_of_burstgpt_are_refused_or_counted(tmp_path):
    head = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    path = put(tmp_path, head + "5,7,1,m,100,0,100,x\n6,7,1,m,100,9,109,x\n", "b.csv")
    assert refused(path, "a failed request") == f"{path}:2"
    assert read_trace(path, repair=True).repaired == {"rows dropped": 1}


def test_chats_of_bailian_are_one_session_from_their_root(tmp_path):
    def chat(number, parent, turn, at):
        return {"chat_id": number, "parent_chat_id": parent, "timestamp": at, "input_length": 20, "output_length": 3,
                "type": "text", "turn": turn, "hash_ids": [1, number]}  # fmt: skip

    rows = [
        chat(10, -1, 1, 0.0),
        chat(11, -1, 1, 0.5),
        chat(12, 10, 2, 1.0),
        chat(13, 12, 3, 9.0),
        chat(14, 99, 2, 9.5),
    ]
    trace = read_trace(put(tmp_path, rows))
    assert trace.session.tolist() == [0, 1, 0, 0, 4]
    assert trace.span_s == 9.5  # seconds, where Mooncake has milliseconds


def test_mooncake_delays_follow_the_session(tmp_path):
    rows = [
        {"timestamp": 0, "session_id": "a", "input_length": 10, "output_length": 5},
        {"delay": 1500, "session_id": "a", "input_length": 20, "output_length": 5},
        {"timestamp": 900.5, "session_id": "b", "input_length": 10, "output_length": 5},
    ]
    trace = read_trace(put(tmp_path, rows))
    assert np.isnan(trace.delay_s).tolist() == [True, False, True]
    assert trace.delay_s[1] == 1.5
    write(trace, tmp_path / "again.jsonl")
    again = read_trace(tmp_path / "again.jsonl")
    assert again.delay_s[1] == 1.5
    assert again.session.tolist() == [0, 0, 1]
    where = refused(put(tmp_path, [rows[0], rows[1] | {"session_id": "x"}]), "first request of session x")
    assert where.endswith(":2")


def test_length_and_text_exclude_each_other(tmp_path):
    row = {"timestamp": 0, "input_length": 4, "text_input": "abcd", "output_length": 1}
    refused(put(tmp_path, [row]), "exactly one")


def test_hash_ids_of_another_block_size_are_told(tmp_path):
    row = {"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": list(range(38))}
    refused(put(tmp_path, [row]), "--block-tokens 16 would fit")
    assert read_trace(put(tmp_path, [row]), block=16).block == 16


def test_missing_outputs_are_not_invented(tmp_path):
    path = put(tmp_path, [{"timestamp": 0, "input_length": 4}, {"timestamp": 1, "input_length": 4}])
    assert refused(path, "--missing-output").endswith(":1")
    trace = read_trace(path, missing_output=64)
    assert trace.output_tokens.tolist() == [64, 64]
    assert trace.notes == ("2 outputs of 64 tokens assumed",)


def test_llmservingsim_flat_table_and_agents(tmp_path):
    text = "arrival_time_ns,input_toks,output_toks\n0,5,6\n2000000000,7,8\n"
    assert read_trace(put(tmp_path, text, "t.csv")).span_s == 2.0
    calls = [{"input_toks": 5, "output_toks": 6, "tool_duration_ns": 3e9}, {"input_toks": 50, "output_toks": 6}]
    trace = read_trace(put(tmp_path, [{"session_id": 4, "arrival_time_ns": 0, "sub_requests": calls}]))
    assert trace.delay_s[1] == 3.0
    assert trace.session.tolist() == [0, 0]
    refused(put(tmp_path, [{"session_id": 4, "sub_requests": [3]}]), "no row of llmservingsim")


def test_aibrix_moments(tmp_path):
    row = {"timestamp": 2000, "requests": [{"Prompt Length": 3, "Output Length": 4}] * 2}
    trace = read_trace(put(tmp_path, [row | {"timestamp": 0}, row]))
    assert trace.arrival_s.tolist() == [0.0, 0.0, 2.0, 2.0]


def test_sharegpt_needs_a_counter(tmp_path):
    talk = [{"from": "human", "value": "x" * 40}, {"from": "gpt", "value": "y" * 20}]
    items = [{"id": "a", "conversations": talk}, {"id": "b", "conversations": talk[:1]}]
    path = put(tmp_path, json.dumps(items, indent=1), "s.json")
    assert refused(path, "--tokenizer FILE, or --chars-per-token").endswith(":1")
    trace = read_trace(path, count=counter(chars_per_token=4.0))
    assert (trace.kind, trace.input_tokens.tolist(), trace.output_tokens.tolist()) == ("sharegpt", [10], [5])
    assert trace.notes == ("1 conversations without an answer left out",)
    broken = put(tmp_path, '[\n{"conversations": []},\n{"conversations": [oops]}]', "s.json")
    assert refused(broken, "not JSON", count=len) == f"{broken}:3"
    wrong = put(tmp_path, '[\n\n{"id": 1}]', "s.json")
    assert refused(wrong, "is no conversation", count=len) == f"{wrong}:3"


def test_custom_prompts_of_vllm(tmp_path):
    path = put(tmp_path, [{"prompt": "x" * 30, "output_tokens": 7}])
    refused(path, "--chars-per-token")
    assert read_trace(path, count=counter(chars_per_token=3.0)).input_tokens.tolist() == [10]
    chat = put(tmp_path, [{"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 9}]}],
                           "output_length": 2}])  # fmt: skip
    assert read_trace(chat, count=counter(chars_per_token=3.0)).input_tokens.tolist() == [3]


def test_lengths_that_a_benchmark_saved(tmp_path):
    for indent in (None, 1):
        path = put(tmp_path, json.dumps({"duration": 3, "input_lens": [5, 6], "output_lens": [7, 8]}, indent=indent))
        assert read_trace(path).output_tokens.tolist() == [7, 8]
    refused(put(tmp_path, json.dumps({"input_lens": [5], "output_lens": []})), "1 input_lens but 0")


def test_a_tokenizer_that_is_not_there(tmp_path):
    with pytest.raises((InvalidInput, NotModelled), match="tokenizer"):
        counter(tokenizer=tmp_path / "none.json")


def test_seconds_that_turn_into_milliseconds_are_refused(tmp_path):
    rows = "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(f"{i * 0.5},5,5\n" for i in range(20))
    rows += "".join(f"{10000 + i * 500},5,5\n" for i in range(20))
    path = put(tmp_path, rows, "v.csv")
    assert refused(path, "mixed units") == f"{path}:22"
    assert refused(path, "mixed units", repair=True) == f"{path}:22"
    back = rows.splitlines()
    path = put(tmp_path, "\n".join([back[0], *back[21:], *back[1:21]]), "v.csv")
    refused(path, "time goes back")


def test_a_quiet_night_is_not_a_change_of_units(tmp_path):
    rows = "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(f"{i * 0.5},5,5\n" for i in range(20))
    rows += "".join(f"{40000 + i * 0.5},5,5\n" for i in range(20))
    assert len(read_trace(put(tmp_path, rows, "v.csv"))) == 40


def test_a_torn_gzip_is_kept_up_to_the_tear_on_request(tmp_path):
    path = tmp_path / "t.jsonl.gz"
    noise = np.random.default_rng(0).integers(1, 9999, 5000)
    rows = "".join(json.dumps({"timestamp": i, "input_length": int(n), "output_length": 1}) + "\n"
                   for i, n in enumerate(noise))  # fmt: skip
    path.write_bytes(gzip.compress(rows.encode())[:-9000])
    line = int(refused(path, "damaged gzip").rsplit(":", 1)[1])
    trace = read_trace(path, repair=True)
    assert len(trace) == line - 1
    assert trace.repaired == {"lines torn by a damaged gzip": 1}
    path.write_bytes(b"\x1f\x8b")
    refused(path, "damaged gzip", repair=True)


def test_the_head_is_enough(tmp_path):
    text = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,5\n1,5,5\nnonsense\n"
    assert len(read_trace(put(tmp_path, text, "v.csv"), head=2)) == 2
