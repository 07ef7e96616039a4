"""Prints as JSON what documented command lines print: under any hash seed the same.

``python tests/edge/hash_seeds.py SHARE`` runs each SHARE-th line, and shows every stack.
"""

import contextlib
import json
import random
import sys
import tempfile
from pathlib import Path

import hostile
import hostile_lines
from click.testing import CliRunner

from taicang import catalog
from taicang.app.main import cli

TIMED = {"measure", "fetch", "doctor"}
"""What tells a time that passed, or comes from elsewhere."""


def lines(share: int) -> list[list[str]]:
    """Each of ``share`` documented lines, what takes minutes left out, and every stack."""
    never = hostile.LEFT_OUT | hostile.MINUTES | hostile.NEVER | TIMED
    found = [hostile_lines.brief(words) for words in hostile_lines.examples() if not {*words[:2]} & never]
    random.Random(1).shuffle(found)
    return found[::share] + [["catalog", "show", name] for name in catalog.names("stack")]


def printed(share: int) -> dict[str, str]:
    """What each line prints, as JSON where it can."""
    told = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        hostile_lines.furnish(Path(folder))
        for words in lines(share):
            args = hostile._ending(words, Path("."))
            asked = [*args, "--json"] if takes_json(args) else args
            done = CliRunner().invoke(cli, asked, standalone_mode=False)
            told[" ".join(asked)] = f"{done.output}{done.exception or ''}"
    return told


def takes_json(args: list[str]) -> bool:
    """Whether the command has a flag for it that is not given."""
    command = hostile_lines.tree()[hostile_lines.path_of(args)]
    return "--json" not in args and any("--json" in each.opts and each.is_flag for each in command.params)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(printed(int(sys.argv[1]))))
