"""Traffic made to order: rates, bursts, days, clients, sessions."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from taicang import catalog
from taicang.errors import InvalidInput
from taicang.predict.replay import replay
from taicang.predict.system import System
from taicang.serve.door import through_s
from taicang.traffic.generate import arriving, fixed, rhythm, sessions, wave
from taicang.traffic.servegen import mixture, read_clients
from taicang.traffic.trace import infinite_hit_ratio

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
needs_traces = pytest.mark.skipif(not SHARED.is_dir(), reason="no public traces beside the repository (shared/traces)")


def test_a_day_has_its_quiet_and_its_busy_hours_and_the_mean_rate():
    trace = arriving(fixed(200_000, 10, 10), 200_000 / 86400, seed=1, day=wave(0.8))
    counts, _ = np.histogram(trace.arrival_s, np.arange(25) * 3600)
    assert len(trace) / trace.span_s == pytest.approx(200_000 / 86400, rel=0.01)
    assert counts[3:5].mean() / counts.mean() == pytest.approx(0.2, abs=0.03)
    assert counts[15:17].mean() / counts.mean() == pytest.approx(1.8, abs=0.05)
    assert np.all(np.diff(trace.arrival_s) >= 0)


def test_a_rhythm_may_be_silent_but_not_always():
    trace = arriving(fixed(1000, 10, 10), 1.0, process="uniform", day=rhythm(100.0, [0.0, 2.0], "x"))
    inside = trace.arrival_s % 200.0
    assert np.all((inside >= 99.9) | (inside == 0.0))
    for rates in ([], [0.0], [-1.0, 2.0], [float("nan")]):
        with pytest.raises(InvalidInput, match=r"f\.csv"):
            rhythm(600.0, rates, "f.csv")


def chunk(number: int, rows: str, lengths: dict | None) -> list[tuple[str, str]]:
    made = [(f"set/chunk-{number}-trace.csv", rows)]
    if lengths is not None:
        text = {start: {"input_tokens": str(i), "output_tokens": str(o)} for start, (i, o) in lengths.items()}
        made.append((f"set/chunk-{number}-dataset.json", json.dumps(text)))
    return made


def packed(tmp_path, files) -> Path:
    path = tmp_path / "set.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        for name, text in files:
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


ROWS = "0,2.0,3.0,Gamma,0,0\n600,0,0,,0,0\n1200,4.0,1.0,Weibull,0,0\n"
HALVES = {0: ({100: 0.5, 200: 0.5}, {7: 1.0}), 1200: ({10: 1.0}, {9: 0.25, 11: 0.75})}


def test_clients_keep_their_rates_bursts_and_lengths(tmp_path):
    files = chunk(0, ROWS, HALVES) + chunk(
        1, "0,1.0,1.0,,0,0\n600,1.0,1.0,,0,0\n1200,1.0,1.0,,0,0\n", {0: ({5: 1}, {5: 1})}
    )
    found = read_clients(packed(tmp_path, files + chunk(2, ROWS, None)))
    assert (found.window_s, found.span_s, found.without) == (600.0, 1800.0, (2,))
    trace = mixture(found, span_s=180_000.0, seed=3)  # a hundred times over
    assert trace.notes == ("1 of 3 clients have no lengths: left out",)
    mine = trace.client == 0
    within = trace.arrival_s % 1800.0
    counts, _ = np.histogram(within[mine], [0, 600, 1200, 1800])
    assert counts[0] / 60_000 == pytest.approx(2.0, rel=0.1)
    assert counts[1] <= 10  # the trace begins with its first request, not with the window
    assert counts[2] / 60_000 == pytest.approx(4.0, rel=0.03)
    assert set(trace.input_tokens[mine & (within < 590)]) == {100, 200}
    late = trace.output_tokens[mine & (within > 1210)]
    assert np.mean(late == 11) == pytest.approx(0.75, abs=0.01)
    gaps = np.diff(trace.arrival_s[~mine])
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.02)
    scaled = mixture(found, rate_per_s=50.0, span_s=1800.0, seed=3)
    assert len(scaled) / 1800 == pytest.approx(50.0, rel=0.05)
    again = mixture(found, rate_per_s=50.0, span_s=1800.0, seed=3)
    assert np.array_equal(scaled.arrival_s, again.arrival_s)


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ([], "set.tar.xz"),
        (chunk(0, "0,2.0\n", HALVES), "chunk-0-trace.csv:1"),
        (chunk(0, "0,2,1,,0,0\n600,-2,1,,0,0\n", HALVES), "chunk-0-trace.csv:2"),
        (chunk(0, ROWS, {0: ("{7: -1}", "{1: 1}")}), "chunk-0-dataset.json: 0"),
        (chunk(0, ROWS, {0: ("{7: 1, 8}", "{1: 1}")}), "chunk-0-dataset.json: 0"),
        ([*chunk(0, ROWS, None), ("set/chunk-0-dataset.json", "{oops")], "chunk-0-dataset.json:1"),
    ],
)
def test_faulty_client_sets_name_the_file(tmp_path, files, where):
    with pytest.raises(InvalidInput) as caught:
        read_clients(packed(tmp_path, files))
    assert caught.value.where.endswith(where)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_torn_archive_is_refused(tmp_path, share):
    noise = {int(n): 0.001 for n in np.random.default_rng(0).integers(1, 99999, 4000)}
    files = [each for number in range(4) for each in chunk(number, ROWS, {0: (noise, {number + 1: 1.0})})]
    path = packed(tmp_path, files)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InvalidInput, match="damaged archive"):
        read_clients(path)


@needs_traces
def test_the_public_client_set_has_its_published_means():
    trace = mixture(read_clients(SHARED / "servegen_deepseek-r1.tar.xz"), seed=1)
    assert trace.input_tokens.mean() == pytest.approx(1268, rel=0.02)
    assert trace.output_tokens.mean() == pytest.approx(1527, rel=0.02)
    assert len(trace) == pytest.approx(1383669, rel=0.02)


def test_turns_send_the_whole_conversation_again():
    trace = sessions(5, 4, shared_tokens=640, new_tokens=100, output_tokens=50, delay_s=3.0)
    assert trace.input_tokens[:4].tolist() == [740, 890, 1040, 1190]
    for turn in range(3):
        known, longer = trace.blocks[turn], trace.blocks[turn + 1]
        whole = trace.input_tokens[turn] // 64
        assert list(longer[:whole]) == list(known[:whole])
        assert len(longer) == -(-trace.input_tokens[turn + 1] // 64)
    assert trace.blocks[0][:10] == trace.blocks[4][:10]
    assert trace.blocks[0][10] != trace.blocks[4][10]
    assert infinite_hit_ratio(trace) > 0.7


def test_a_turn_comes_so_long_after_the_answer_before_it():
    trace = sessions(6, 3, shared_tokens=512, new_tokens=200, output_tokens=40, delay_s=2.0)
    spread = arriving(trace, 0.5, seed=2)
    for clients in (0, 2):
        result = replay("llama-3.1-8b", "hgx-h100", spread, System(instances=1), clients=clients, think_s=5.0)
        table = {number: i for i, number in enumerate(result.table["id"].tolist())}
        door = through_s(catalog.stack("vllm"), result.table["input_tokens"])  # clients do not wait for it
        at, end = result.table["arrival_s"], result.table["arrival_s"] + result.table["e2e_s"] - door
        assert len(table) == 18
        cached = result.table["cached_tokens"]
        for session in range(6):
            for turn in (1, 2):
                i = session * 3 + turn
                held = trace.input_tokens[i - 1] + trace.output_tokens[i - 1] - 1
                assert cached[table[i]] == held // 64 * 64, "of the prompt before it and of its answer"
                assert at[table[i]] - end[table[i - 1]] == pytest.approx(2.0, abs=1e-9)
        assert result.summary.cached_ratio > 0.3
        if clients:
            assert at[table[6]] - end[table[2]] == pytest.approx(5.0, abs=1e-9) or at[table[6]] - end[table[5]] > 0
