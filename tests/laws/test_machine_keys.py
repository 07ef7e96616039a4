"""A figure of a machine that a user may set changes the machine, and every figure of a machine is read by a formula."""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

import taicang
from taicang import catalog
from taicang.app.main import cli
from taicang.catalog import schema
from taicang.errors import InvalidInput, MissingFigure, NotModelled
from taicang.hardware import Chip, Level, Machine, Memory

VALUES = {
    "count": ("3", "64"), "ranks": ("2", "16"), "bytes": ("51 GB", "53 GB"), "bytes_per_s": ("1.234 TB/s", "1.3 TB/s"),
    "flop_per_s": ("123 TFLOPS", "124 TFLOPS"), "s": ("7.7 us", "7.8 us"), "w": ("321 W", "320 W"), "hz": ("1 GHz",),
    "usd": ("12345 USD", "12346 USD"), "cny": ("1.23 MCNY", "1.24 MCNY"), "usd_per_h": ("2 USD/h",),
    "ratio": ("0.123", "1.3"), "seed": ("3", "64"),
}  # fmt: skip


def keys(machine):
    """Of figures, as a user writes them."""
    for path, kind in schema.FIELDS["machine"].items():
        if kind in schema.TEXTS or kind == "any":
            continue
        if path.startswith("planes.*.*."):
            last = path.rpartition(".")[2]
            for plane in machine.planes.values():
                yield from ((f"planes.{plane.name}.{level.name}.{last}", kind) for level in plane.levels)
        else:
            yield from ((path.replace("*", form), kind) for form in (schema.PEAKS if "*" in path else ("",)))


@pytest.mark.parametrize("name", ["hgx-h100 x 4", "cloudmatrix384", "gb200-nvl72", "mi300x-8", "atlas-800-a2-376t x 2"])
def test_a_figure_that_may_be_set_changes_the_machine(name):
    base, refused, said = catalog.machine(name), [], "is kept for the record|must|at most|at least|divide|than"
    for key, kind in keys(base):
        made = []
        for value in VALUES[kind]:
            try:
                made.append(catalog.machine(name, [f"{key}={value}"]))
            except (InvalidInput, MissingFigure) as error:
                refused.append((key, str(error)))
        assert any(each != base for each in made) or key in dict(refused), key
    assert all(re.search(said, error) for _, error in refused), refused
    assert "chip.memory.bandwidth" not in dict(refused)


@pytest.mark.parametrize("kind", [Chip, Memory, Level, Machine])
def test_every_figure_of_a_machine_is_read(kind):
    folder = Path(taicang.__file__).parent
    made = {folder / "hardware.py", folder / "catalog" / "build.py"}
    text = "\n".join(path.read_text() for path in folder.rglob("*.py") if path not in made)
    for each in fields(kind):
        assert re.search(rf"\.{each.name}\b", text), each.name


SEEN_BY = {
    "overlap_tax=0.3": "train llama-3-8b --on '{} x 4' --global-batch 512",
    "planes.host.pcie.bandwidth=1 GB/s": "fabric {} --plane host",
    "planes.host.pcie.latency=900 us": "fabric {} --plane host",
    "planes.host.pcie.ranks=4": "fabric {} --plane host",
    "planes.host.pcie.switches=2": "fabric {} --plane host",
    "planes.host.pcie.planes=2": "fabric {} --plane host --set planes.host.pcie.switches=2",
    "planes.rdma.cluster.switches=2": "fabric '{} x 32' --plane rdma",
    "planes.rdma.cluster.planes=2": "fabric '{} x 32' --plane rdma",
    "planes.scale_up.scale_out.switches=2": "fabric '{} x 32'",
    "planes.scale_up.scale_out.planes=2": "fabric '{} x 32'",
}
"""Figures that few questions read: spine switches are none below 64 adapters, a host's bus is drawn for one node."""


@pytest.mark.parametrize("said", SEEN_BY)
def test_a_figure_that_few_questions_read_is_read_by_one(said):
    words = [*shlex.split(SEEN_BY[said].format("hgx-h100")), "--json"]
    base, other = (CliRunner().invoke(cli, [*words, *more], standalone_mode=False) for more in ([], ["--set", said]))
    assert base.exception is None
    if other.exception is not None:  # a fact that contradicts others
        assert isinstance(other.exception, NotModelled)
        return
    told = [json.loads(each.stdout) for each in (base, other)]
    assert differs(*told), said


def differs(one, other):
    """Whether two answers differ in a number."""
    if isinstance(one, dict):
        return one.keys() != other.keys() or any(differs(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) != len(other) or any(map(differs, one, other))
    return isinstance(one, int | float) and one != other
