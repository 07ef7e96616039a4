"""What the CUDA layer did for a program of CUDA on Ascend: each call that was mapped, fell back, or has no counterpart.

While the program runs, calls of CUDA's names are counted by where they stand (``noted``). Afterwards the porting rules
say what each becomes, and what operators that ``torch_npu`` documents as not supported do: they run on the host.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Final

import numpy as np

from taicang.port.tables import Rule, Rules
from taicang.virtual.capture import GRAPHED, KERNEL, Rank

CALLS: Counter[tuple[str, str, int]] = Counter()
"""Calls by name, file and line."""
INSIDE = ("/torch/", "/taicang/virtual/", "<frozen", "<string>")
"""Files whose own calls are no program's."""
KINDS: Final[Mapping[str, str]] = {
    "auto": "mapped", "edit": "mapped, to be checked", "library": "another library", "kernel": "no counterpart",
    "blocked": "no counterpart",
}  # fmt: skip
"""What happened, by the tier of the rule."""
HOST: Final = "fell back to the host"
PLACES: Final = ("torch", "torch.Tensor", "torch.nn.functional", "torch.linalg", "torch.fft")
"""Where the API of an operator may be documented."""


def noted(name: str, function: Any) -> Any:
    """``function``, with its calls from outside PyTorch counted under ``name``; what is no function stays as it is."""
    if not callable(function) or isinstance(function, type):
        return function

    @wraps(function)
    def calls(*args: Any, **kwargs: Any) -> Any:
        frame = sys._getframe(1)
        path = frame.f_code.co_filename
        if not any(part in path for part in INSIDE):
            CALLS[name, path, frame.f_lineno] += 1
        return function(*args, **kwargs)

    return calls


def noting(given: Mapping[str, Callable[..., Any]], module: str) -> dict[str, Any]:
    """A module's functions with their calls counted."""
    return {name: noted(f"{module}.{name}", each) for name, each in given.items()}


def unsupported(name: str, rules: Rules) -> Rule | None:
    """The rule that says that an operator has no kernel of the vendor's."""
    bare = name.strip("_")
    rule = next((r for place in PLACES if (r := rules.exact.get(f"{place}.{bare}"))), None)
    return rule if rule is not None and rule.name == "unsupported" else None


def rows(ranks: Sequence[Rank], rules: Rules, seconds: Mapping[int, Sequence[float]]) -> list[dict[str, Any]]:
    """The log: calls by place, then operators that have none, with their time; ``rules`` are those of the port to
    Ascend, ``seconds`` the prices of each rank's kernels."""
    calls: Counter[tuple[str, str, int]] = Counter()
    operators: Counter[str] = Counter()
    spent_s: dict[str, float] = {}
    for rank in ranks:
        for name, path, line, count in rank.calls:
            calls[name, path, line] += count
        launched = Counter(rank.work[np.isin(rank.work[:, 0], (KERNEL, GRAPHED)), 2].tolist())
        for at, count in launched.items():
            name = rank.kernels[at].name
            operators[name] += count
            spent_s[name] = spent_s.get(name, 0.0) + count * seconds[rank.rank][at]
    found = [
        {"operator": name.rpartition(".")[2], "api": name, "path": path, "line": line, "count": count}
        | _became(name, rules.named(name))
        for (name, path, line), count in sorted(calls.items(), key=lambda item: (item[0][1], item[0][2], item[0][0]))
    ]
    for name, count in sorted(operators.items()):
        if (rule := unsupported(name, rules)) is not None:
            found.append({"operator": name.strip("_"), "api": f"aten.{name}", "count": count, "kind": HOST,
                          "why": rule.why, "seconds": spent_s[name]})  # fmt: skip
    return found


def _became(name: str, rule: Rule | None) -> dict[str, str]:
    """What a call became on Ascend."""
    head, _, rest = name.partition("torch.cuda.")
    there = f"torch.npu.{rest}" if rest and not head else ""
    if rule is None:
        return {"kind": "mapped"} | ({"became": there} if there else {})
    became = rule.counterpart or there
    return {"kind": KINDS[rule.tier], "why": rule.why} | ({"became": became} if became else {})
