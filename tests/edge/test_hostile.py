"""Hostile input ends in an answer or in one line: no traceback, valid JSON, in time (``make fuzz`` runs many more)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import click
import hostile

from taicang.units import DIMENSIONS


@pytest.mark.parametrize("seed", range(6))
def test_hostile_input_is_answered_or_refused(seed):
    assert hostile.run(seed, 25) == []


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
