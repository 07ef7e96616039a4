"""Numbers at the door: one reading each, or a refusal that shows both."""

import pytest

from taicang.errors import InvalidInput, UnitError
from taicang.units import count, parse


@pytest.mark.parametrize(("text", "wanted"), [(4096, 4096), ("32k", 32000), ("32Ki", 32768), ("2T", 2 * 10**12)])
def test_counts(text, wanted):
    assert count(text, 1, 10**18) == wanted


@pytest.mark.parametrize("text", ["1,5k", "010", "0.5", "1:30", "9" * 400, True, None, [1], "1e999", "-1"])
def test_what_is_no_count(text):
    with pytest.raises(UnitError):
        count(text, 1, 10**18)


def test_a_comma_shows_both_readings():
    with pytest.raises(UnitError, match=r"'3\.35 TB/s' or '335 TB/s'"):
        parse("3,35 TB/s", "bytes_per_s")


@pytest.mark.parametrize("text", ["1e-300 B/s", "1e999 B/s", "1e-999 B/s", "05 B/s", "9" * 400 + " B/s"])
def test_quantities_out_of_reach(text):
    with pytest.raises(UnitError):
        parse(text, "bytes_per_s")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("chips: 1:30", "2: chips"),
        ("chips: 010", "begins with 0"),
        ("chips: 1000000000", "ranks"),
        ("power: {load: 2 kW}\npower.load: 1 kW", "stands twice"),
        ("planes: &p {scale_up: &q {x: *q}}", "inside itself"),
        ('title: "\\e[31m"', "control characters"),
    ],
)
def test_machine_files(tmp_path, body, says):
    from taicang import catalog  # noqa: PLC0415

    path = tmp_path / "m.yaml"
    path.write_text(f"base: hgx-h100\n{body}\n")
    with pytest.raises(InvalidInput, match=says):
        catalog.machine(str(path))
