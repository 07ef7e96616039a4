"""What all suites and fits share: tables, rows as operators of arrays, outcomes, and the solver."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from taicang.app.score_cmd import FITS
from taicang.cost.collective import Line
from taicang.errors import NotModelled
from taicang.evidence.fitting import declared_fits, solve, stated
from taicang.evidence.measured import Measured, count, log_errors
from taicang.evidence.suites import sources, text, value
from taicang.evidence.systems import MACHINES, chip_of, machine_of
from taicang.evidence.tables import column, grouped, lines, named, record
from taicang.ops import Gemm


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "gemm.csv"
    path.write_text("system,m,best\nh100_sxm,1,2.5\nb200_sxm,2,\nh100_sxm,3,4\n", encoding="utf-8")
    return path


def rows() -> Measured[Gemm]:
    m = np.array([1.0, 2.0, 4.0])
    return Measured(
        suite="gemm",
        system="h100_sxm",
        kernel="bf16",
        op=Gemm(m=m, n=8.0, k=m, dtype="bf16"),
        ids=("a", "b", "c"),
        measured_s=m * 1e-6,
        held=np.array([False, True, False]),
    )


def test_lines_know_their_number_and_groups_keep_the_order_of_the_table(table: Path) -> None:
    parts = grouped(lines(table), "system")
    assert [[line["line"] for line in part] for part in parts] == [["2", "4"], ["3"]]


def test_a_blank_cell_is_an_error_unless_the_reader_says_what_it_means(table: Path) -> None:
    listed = lines(table)
    assert column(listed, "m").tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="could not convert"):
        column(listed, "best")
    with pytest.raises(KeyError):
        column(listed, "worst")
    assert np.isnan(column(listed, "best", blank=np.nan)).tolist() == [False, True, False]
    assert np.isnan(column(listed, "worst", blank=np.nan)).all()


def test_a_record_takes_columns_by_name_and_type() -> None:
    cells = {"base_s": "1e-6", "hop_s": "2", "efficiency_ratio": "0.5"}
    assert record(Line, cells, own_ratio=0.1, shared_ratio=0.0, shared_power=1.0, spread_ratio=0.0) == Line(
        base_s=1e-6, hop_s=2.0, efficiency_ratio=0.5, own_ratio=0.1
    )


def test_fits_see_calibrated_on_rows_only() -> None:
    fitted = rows().fitted()
    assert fitted.ids == ("a", "c")
    assert np.asarray(fitted.op.k).tolist() == [1.0, 4.0]
    assert fitted.op.n == 8.0
    assert count([fitted, rows()]) == 5


def test_outcomes_are_in_their_unit_and_a_refusal_names_its_reason() -> None:
    priced = rows().outcomes(lambda: rows().measured_s * 2.0, unit="us")
    assert [(o.measured, o.predicted, o.unit, o.held_out) for o in priced][1] == pytest.approx((2.0, 4.0, "us", True))
    assert {o.group for o in priced} == {"h100_sxm bf16"}

    def refuse() -> float:
        raise NotModelled("no such kernel")

    assert {(o.predicted, o.refused) for o in rows().outcomes(refuse)} == {(None, "no such kernel")}


def test_errors_are_logarithms_of_predicted_over_measured() -> None:
    errors = log_errors([rows(), rows().fitted()], lambda part: part.measured_s * 2.0)
    assert errors == pytest.approx(np.full(5, np.log(2.0)))


def test_the_solver_finds_constants_within_their_bounds_despite_outliers() -> None:
    size = np.geomspace(1.0, 1e4, 40)
    goal = np.log(3.0 + size / 50.0)
    goal[::13] += 1.0  # rows that another kernel served
    bounds = {"floor_s": (1.0, 0.1, 10.0), "rate_per_s": (10.0, 1.0, 40.0)}
    found = solve(lambda c: np.log(c["floor_s"] + size / c["rate_per_s"]) - goal, bounds, spreads=(0.0, 0.5))
    assert found["floor_s"] == pytest.approx(3.0, rel=0.1)
    assert found["rate_per_s"] == pytest.approx(40.0, rel=1e-3)


def test_a_prior_holds_what_no_row_tells() -> None:
    bounds = {"told": (1.0, 0.01, 100.0), "untold": (2.0, 0.01, 100.0)}
    found = solve(lambda c: np.array([np.log(c["told"] / 5.0)]), bounds, prior=0.01, spreads=(0.5,))
    assert found == {"told": pytest.approx(5.0, rel=1e-2), "untold": pytest.approx(2.0, rel=1e-2)}


def test_constants_at_their_default_are_not_written() -> None:
    assert stated(Line(base_s=1.0, hop_s=0.0, efficiency_ratio=0.5)) == {
        "base_s": 1.0,
        "hop_s": 0.0,
        "efficiency_ratio": 0.5,
    }


@pytest.mark.parametrize("system", [name for name in MACHINES if name != "cloudmatrix384"])
def test_a_system_of_the_tables_is_one_chip_and_one_machine(system: str) -> None:
    assert machine_of(system).chip.profile == chip_of(system).profile


def test_every_function_that_a_suite_or_a_fit_names_exists() -> None:
    """And every fit of the command line is declared, in one of the three ways."""
    for source in sources().values():
        told = [source.rows, source.outcomes, source.run, *(each.predict for each in source.figures)]
        told += [each.held for each in source.figures if isinstance(each.held, str) and "." in each.held]
        assert all(callable(named(name)) for name in told if name)
        assert bool(source.outcomes) != bool(source.figures), source.name
    for family in (each for families in FITS.values() for each in families):
        ways = {"groups", "fit", "writes"} & declared_fits()[family].keys()
        assert len(ways) == 1, family
        assert all(callable(named(declared_fits()[family][way])) for way in ways)


def test_a_declaration_speaks_of_columns_and_of_fields() -> None:
    """Of a line, of a dataclass, and of what a dataclass holds."""
    line, made = {"id": "a", "chip": "h100"}, rows()
    assert (text(line, "{chip}/{id}"), value(line, "chip")) == ("h100/a", "h100")
    assert (text(made, "{system} {op.dtype}"), value(made, "kernel")) == ("h100_sxm bf16", "bf16")
    assert text(made, "plain") == "plain"
