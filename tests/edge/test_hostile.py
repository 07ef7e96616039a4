"""Hostile input ends in an answer or in one line: no traceback, valid JSON, in time (``make fuzz`` runs many more)."""

import contextlib
import json
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import click
import hostile

from taicang.units import DIMENSIONS


@pytest.mark.parametrize("seed", range(6))
def test_hostile_input_is_answered_or_refused(seed):
    assert hostile.run(seed, 25) == []


@pytest.mark.parametrize("others_run", [False, True])
def test_what_waits_for_a_processor_is_not_taken_for_what_waits_for_ever(others_run, monkeypatch):
    if others_run:
        monkeypatch.setattr(hostile, "blocked_s", lambda: 0.0)
    hostile.patiently(hostile.blocked_s() + 0.05)
    try:
        with contextlib.nullcontext() if others_run else pytest.raises(RuntimeError, match="no end"):
            time.sleep(0.3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def parts(answer):
    """Every object of an answer."""
    if isinstance(answer, dict):
        yield answer
    for each in answer.values() if isinstance(answer, dict) else answer if isinstance(answer, list) else ():
        yield from parts(each)


SERVED = {"tpot", "ttft", "throughput", "power"}
BANDS = {
    "infer.json": SERVED | {"memory"}, "search.json": SERVED, "compare.json": SERVED | {"memory"},
    "train.json": {"step_time", "throughput", "mfu", "memory", "power", "days", "energy"},
    "replay.json": SERVED | {"itl", "e2e", "queue"}, "fabric.json": {"library", "closed form"},
    "centre.json": {"tpot", "ttft"},
}  # fmt: skip
"""What each command's figures need."""


@pytest.mark.parametrize("name", hostile.hostile_files.RESULTS)
def test_a_figure_without_its_band_or_that_is_no_number_is_noticed(name):
    """Each kind of band taken away, in a part that has it; figures of each part made no number."""
    words = f"{hostile.hostile_files.RESULTS[name]} --json".split()
    answer, seen = json.loads(hostile.hostile_files.said(" ".join(words))), set()
    assert hostile.told(words, json.dumps(answer)) == ""
    for part in parts(answer):
        for band in [each for each in part.get("bands") or () if each not in seen]:
            kept = part["bands"].pop(band)
            if "no band" in hostile.told(words, json.dumps(answer)):
                seen.add(band)
            part["bands"][band] = kept
        for key in [key for key, value in part.items() if isinstance(value, float) and key not in seen]:
            kept, part[key] = part[key], float("nan")
            assert "no JSON" in hostile.told(words, json.dumps(answer)), key
            part[key] = kept
            seen.add(key)
    assert seen >= BANDS[name]


def options(command):
    """Of a command and all below it."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from options(command.get_command(click.Context(command), name))
    else:
        yield from command.params


def test_every_quantity_that_an_option_takes_has_units():
    found = [each for each in options(hostile.cli) if getattr(each.type, "dimension", "")]
    assert len(found) > 10
    for each in found:
        assert each.type.dimension in DIMENSIONS, each.opts
        assert each.type.dimension in hostile.QUANTITIES, each.opts
