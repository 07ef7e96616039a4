"""Broken files of users: the message names file, line and key."""

import contextlib
import random
from pathlib import Path

import pytest

from taicang import catalog
from taicang.catalog import files
from taicang.errors import InvalidInput, TaicangError, UnitError, UnknownName


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("base: h100\nmemory:\n  bandwidth: [1, 2\n", InvalidInput, r"bad\.yaml:\d+: malformed YAML"),
        ("- a\n- b\n", InvalidInput, r"bad\.yaml:1: expected a mapping"),
        ("", InvalidInput, r"bad\.yaml:1: expected a mapping"),
        ("base: h100\n\nmemory:\n  bandwidth: 4\n", UnitError, r"bad\.yaml:4: memory\.bandwidth: .*has no unit"),
        ("base: h100\nmemory:\n  capacity: 80 TB/s\n", UnitError, r"bad\.yaml:3: memory\.capacity: "),
        ("base: h100\nmemory:\n  capacity: -80 GB\n", InvalidInput, r"bad\.yaml:3: memory\.capacity: .*not negative"),
        (
            "base: h100\nmemory:\n  bandwith: 4 TB/s\n",
            UnknownName,
            r"bad\.yaml:3: memory\.bandwith: .*memory\.bandwidth",
        ),
        ("base: h100\npeak:\n  bf61: 4 TFLOPS\n", UnknownName, r"bad\.yaml:3: peak\.bf61: .*peak\.bf16"),
        ("base: h1o0\n", UnknownName, r"bad\.yaml:1: base: .*h100"),
        ("base: [h100]\n", InvalidInput, r"bad\.yaml:1: base: expected the name"),
        ("base: ./bad.yaml\n", InvalidInput, r"bad\.yaml:1: base: .*circle"),
        ("base: ./absent.yaml\n", InvalidInput, r"bad\.yaml:1: base: no such file"),
        ("base: h100\ndies: two\n", InvalidInput, r"bad\.yaml:2: dies: expected a whole number"),
        ("base: h100\nfrom: me\n", InvalidInput, r"bad\.yaml:2: from: expected"),
        ("base: h100\nl2: {value: 1 MB, sauce: me}\n", UnknownName, r"bad\.yaml:2: l2\.sauce: .*source"),
        ("base: h100\nl2: {value: 1 MB, conflicts: [3]}\n", InvalidInput, r"bad\.yaml:2: l2\.conflicts: "),
        ("base: h100\nl2: {value: 1 MB, conflicts: 3}\n", InvalidInput, r"bad\.yaml:2: l2\.conflicts: "),
        ("base: h100\nbins: 3\n", InvalidInput, r"bad\.yaml:2: bins"),
        ("base: h100\nl2: &a [*a]\n", InvalidInput, r"bad\.yaml:2: l2"),
    ],
)
def test_message(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        catalog.chip(str(path))


def test_unknown_chip_of_a_machine_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("base: hgx-h100\n\nchip: h101\n")
    with pytest.raises(UnknownName, match=r"m\.yaml:3: chip: unknown chip 'h101'; did you mean h100"):
        catalog.machine(str(path))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.yaml: no such file"):
        catalog.chip(str(tmp_path / "none.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="cannot read the file"):
        catalog.chip(str(tmp_path / "binary.yaml"))
    with pytest.raises(InvalidInput, match="cannot read the file"):
        catalog.chip(f"{tmp_path}/")


def test_keys_given_twice_are_found(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("base: h100\nl2: 1 MB\nl2: 2 MB\n")
    with pytest.raises(InvalidInput, match=r"twice\.yaml:3: l2: this key stands twice"):
        catalog.chip(str(path))


def test_broken_laws_are_found(tmp_path: Path) -> None:
    path = tmp_path / "wide.yaml"
    path.write_text(
        "base: hgx-h100\nplanes: {scale_up: {odd: {ranks: 12, bandwidth: 600 GB/s, latency: 1 us, topology: switch}}}\n"
    )
    problems = " ".join(finding.problem for finding in catalog.check(str(path)))
    assert "whole number" in problems
    assert "more bandwidth" in problems


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "live.yaml"
    path.write_text("base: h100\nl2: 1 MB\n")
    assert catalog.chip(str(path)).l2_bytes == 1e6
    path.write_text("base: h100\nl2: 2222 MB\n")
    assert catalog.chip(str(path)).l2_bytes == 2222e6


def test_damaged_files_never_escape_the_exception_tree(tmp_path: Path) -> None:
    rng = random.Random(7)
    path = tmp_path / "fuzz.yaml"
    for name in ("machines/cloudmatrix384.yaml", "chips/h100.yaml", "machines/hgx-h20.yaml"):
        text = (files.DATA / name).read_text()
        kind = catalog.machine if name.startswith("machines") else catalog.chip
        for _ in range(60):
            at, length = rng.randrange(len(text)), rng.randrange(1, 9)
            broken = text[:at] + "".join(rng.choices(" \n:{}[]&*'\"-x9,\t", k=rng.randrange(4))) + text[at + length :]
            path.write_text(broken)
            files._read.cache_clear()
            with contextlib.suppress(TaicangError):
                kind(str(path))


def test_files_of_the_package_read_as_files_of_users_do() -> None:
    for path in files.DATA.parents[1].rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        if ".inf" not in text:
            assert repr(files.load(text, "own", trusted=True)) == repr(files.load(text, "a user's")), path
