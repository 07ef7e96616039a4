"""Any built-in model on any built-in machine under any stack and layout, for the laws that hold everywhere."""

from dataclasses import replace
from functools import cache
from typing import NamedTuple

from hypothesis import assume
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.models import model_names
from taicang.catalog.stack_entry import runs_on
from taicang.errors import MissingFigure, NotModelled, TaicangError
from taicang.plans import EXCHANGES, ServePlan, describe
from taicang.search.door import formats, prepare
from taicang.search.points import Job
from taicang.search.space import default, layouts

MACHINES = st.tuples(st.sampled_from(catalog.names("machine")), st.sampled_from(["", "", " x 2", " x 4"])).map("".join)
SERVING = tuple(name for name in catalog.names("stack") if catalog.stack(name).use == "serving")


@cache
def native(machine, stacks=SERVING):
    """Those of ``stacks`` that run on the machine (all, where its figures are not public)."""
    try:
        chip = catalog.machine(machine).chip
    except MissingFigure:
        return stacks
    return tuple(name for name in stacks if runs_on(catalog.stack(name).runs_on, chip))


def whole(low: float, high: float) -> st.SearchStrategy[int]:
    """Whole numbers of any size between powers of ten."""
    return st.floats(low, high).map(lambda exponent: round(10.0**exponent))


@cache
def _job(model, machine, stack, skew):
    try:
        return prepare(model, machine, input_tokens=1000, output_tokens=100, stack=stack, skew=skew)
    except (MissingFigure, NotModelled):
        return None


@cache
def _plans(model, machine, stack):
    job = _job(model, machine, stack, 0.0)
    try:
        quant = formats(["auto"], job)[0][1]
        return list(layouts(default(job.model), job.model, job.machine, job.stack, quant, prefill=True))
    except (TaicangError, AttributeError):  # no job, or none of its formats
        return []


class Case(NamedTuple):
    """A job and one of its layouts."""

    job: Job
    plan: ServePlan

    def __repr__(self):
        return f"{self.job.model.name} on {self.job.machine.name}, {self.job.stack.name}: {describe(self.plan)}"


def any_case(model: str, machine: str, stack: str, layout: str) -> Case:
    """The case with the layout that is described so."""
    plan = next(plan for plan in _plans(model, machine, stack) if describe(plan) == layout)
    return Case(_job(model, machine, stack, 0.0), plan)


@st.composite
def cases(draw, *, decodes: bool = False):
    """Any case; ``decodes``: of a layout that decodes."""
    on = draw(MACHINES)
    name = draw(st.sampled_from(model_names())), on, draw(st.sampled_from((None, *native(on))))
    plans = [plan for plan in _plans(*name) if not (decodes and plan.sp)]
    assume(plans)
    plan = plans[draw(st.integers(0, len(plans) - 1))]
    job = _job(*name, draw(st.sampled_from([0.0, 1.01])))
    drafts = draw(st.integers(0, 2)) if job.model.mtp_layers and not plan.sp else 0
    exchange = draw(st.sampled_from([plan.exchange, *EXCHANGES]))
    return Case(job, replace(plan, draft_tokens=drafts, exchange=exchange))
