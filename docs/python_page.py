"""The Python reference: signatures and docstrings of what a program may use."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

MODULES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Predict", "taicang.predict", ("infer", "explain", "to_frame")),
    ("", "taicang.predict.serving", ("answer",)),
    ("", "taicang.search.door", ("Run", "Serving")),
    ("", "taicang.predict.prediction", ("Prediction", "Served", "PhasePrediction", "Infeasible")),
    ("", "taicang.catalog.trust", ("Band",)),
    ("Search", "taicang.search.door", ("prepare", "formats")),
    ("", "taicang.serve.uneven", ("Spread",)),
    ("", "taicang.search.run", ("search", "Ask")),
    ("", "taicang.search.space", ("Space",)),
    ("", "taicang.search.result", ("Found", "Choice", "Pool", "Counts")),
    ("Replay", "taicang.predict.replay", ("replay", "Replay")),
    ("", "taicang.predict.system", ("System",)),
    ("", "taicang.predict.standing", ("Tenant",)),
    ("", "taicang.serve.summary", ("Summary", "Spread")),
    ("", "taicang.traffic.trace", ("Trace",)),
    ("", "taicang.traffic.change", ("take", "window", "thin", "faster", "to_rate", "longer", "spliced", "overlaid")),
    ("", "taicang.traffic.read", ("read_trace",)),
    ("", "taicang.traffic.generate", ("fixed", "arriving", "from_profile")),
    ("Training", "taicang.predict.train", ("train", "TrainPrediction")),
    ("", "taicang.train_plans", ("TrainPlan", "Recipe", "recipe")),
    ("", "taicang.train.step", ("TrainStep",)),
    ("", "taicang.train.run", ("train_run", "Run", "Policy", "Component")),
    ("Catalogue", "taicang.catalog", ("chip", "machine", "stack", "entry", "names", "check", "digest")),
    ("", "taicang.catalog.models", ("model", "model_names", "not_modelled")),
    ("", "taicang.catalog.costing", ("cost_model",)),
    ("Models", "taicang.models.types", ("Model", "Block", "GroupedQuery", "Latent", "Indexer", "GatedLinear")),
    ("", "taicang.models.types", ("Dense", "Experts")),
    ("", "taicang.models.count", ("parameters", "kv_cache_bytes", "prefill_flop", "decode_flop")),
    ("Machines", "taicang.hardware", ("Machine", "Chip", "Memory", "Plane", "Level")),
    ("", "taicang.stacks", ("Stack",)),
    ("Plans and batches", "taicang.plans", ("ServePlan", "Quantisation", "Batch", "prefill_batch", "decode_batch")),
    ("Operators", "taicang.ops", ("Gemm", "GroupedGemm", "Attend", "Pointwise", "Lookup", "Collective")),
    ("", "taicang.ops", ("Exchange", "Transfer", "Host")),
    ("Prices", "taicang.cost.cost", ("Cost",)),
    ("", "taicang.cost.model", ("CostModel",)),
    ("", "taicang.lower", ("lower",)),
    ("Steps and serving", "taicang.serve.setup", ("Setup", "step")),
    ("", "taicang.timeline", ("Timeline", "Slice")),
    ("", "taicang.serve.steady", ("Load", "Steady", "aggregated", "Pools", "disaggregated")),
    ("", "taicang.serve.memory", ("MemoryUse", "memory_use")),
    ("Calibrated constants", "taicang.cost.gemm", ("GemmFit",)),
    ("", "taicang.cost.pointwise", ("PointwiseFit",)),
    ("", "taicang.cost.attend_gqa", ("GqaPrefillFit", "GqaDecodeFit")),
    ("", "taicang.cost.attend_mla", ("MlaPrefillFit", "MlaDecodeFit")),
    ("", "taicang.cost.experts", ("ExpertsFit",)),
    ("", "taicang.cost.collective", ("Line",)),
    ("", "taicang.cost.exchange", ("ExchangeFit",)),
    ("", "taicang.cost.energy", ("EnergyFit",)),
    ("Scores", "taicang.evidence.score", ("Outcome", "Score", "score", "score_parts")),
    ("", "taicang.evidence.tables", ("held_out",)),
    ("Errors", "taicang.errors", ("TaicangError", "InvalidInput", "UnknownName", "UnitError", "MissingFigure")),
    ("", "taicang.errors", ("NotModelled", "InvalidPlan")),
)


def make(page: Callable[..., str]) -> str:
    """The page."""
    parts = [
        "Frozen dataclasses with keyword arguments, and functions. Units are in the names: `_s`, `_bytes`, "
        "`_bytes_per_s`, `_flop`, `_flop_per_s`, `_w`, `_j`, `_tokens`, `_ratio`; all plain SI. `Num` is a float or a "
        "NumPy array, `Count` a pure number or an array of them. How to use it: "
        "[from Python](../how-to/python.md)."
    ]
    for title, module, listed in MODULES:
        if title:
            parts.append(f"## {title}")
        loaded = importlib.import_module(module)
        parts += [_described(module, getattr(loaded, name)) for name in listed]
    return page("Python API", *parts)


def _described(module: str, thing: Any) -> str:
    name = thing.__name__
    lines = [f"### {name}", "", f"`from {module} import {name}`", ""]
    if inspect.isclass(thing):
        lines += [_prose(thing.__doc__), *_fields(thing)]
    else:
        shown = str(inspect.signature(thing)).replace("'", "").replace("taicang.", "")
        lines += ["```text", textwrap.fill(f"{name}{shown}", 100, subsequent_indent="    "), "```", ""]
        lines.append(_prose(thing.__doc__))
    return "\n".join(lines)


def _prose(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("``", "`")


def _fields(cls: type) -> list[str]:
    """Annotated fields and properties of a class with the docstrings that follow them."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    rows = []
    for i, node in enumerate(tree.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            after = tree.body[i + 1] if i + 1 < len(tree.body) else None
            told = _constant(after)
            default = f" = {ast.unparse(node.value)}" if node.value is not None else ""
            default = "" if default.startswith(" = field(") else default
            rows.append((f"`{node.target.id}: {ast.unparse(node.annotation)}{default}`", told))
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)
            rows.append((f"`{node.name}`" if is_property else f"`{node.name}(...)`", ast.get_docstring(node) or ""))
    if not rows:
        return []
    cells = [(name.replace("|", "\\|"), " ".join(told.replace("``", "`").split())) for name, told in rows]
    return ["", "| field | |", "| --- | --- |", *(f"| {name} | {told} |" for name, told in cells)]


def _constant(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return node.value.value.replace("|", "\\|")
    return ""
