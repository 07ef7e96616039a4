"""Arithmetic of claims: numbers, dotted names, + - * / **, comparisons, and, or, not, min, max, abs."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from types import MappingProxyType
from typing import Any, TypeAlias

from taicang.errors import InvalidInput

Lookup: TypeAlias = Callable[[str], float]
"""The value of a name. Raises ``LookupError`` where it has none."""

_TWO: Mapping[type, Callable[[Any, Any], Any]] = MappingProxyType(
    {
        ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
        ast.Pow: operator.pow, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
        ast.Eq: operator.eq, ast.NotEq: operator.ne,
    }
)  # fmt: skip
_ONE: Mapping[type, Callable[[Any], Any]] = MappingProxyType({ast.USub: operator.neg, ast.Not: operator.not_})
_CALLS: Mapping[str, Callable[..., Any]] = MappingProxyType({"min": min, "max": max, "abs": abs})


@cache
def parsed(text: str) -> ast.expr:
    """``text`` as a tree. Raises ``InvalidInput`` for what is no arithmetic."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InvalidInput(f"cannot read {text!r} as arithmetic") from None
    _names(tree)
    return tree


def names(text: str) -> frozenset[str]:
    """Dotted names in ``text``. Raises as ``parsed``."""
    return _names(parsed(text))


def evaluate(text: str, lookup: Lookup) -> float | bool:
    """The value of ``text``. Raises ``LookupError`` for a name without value and ``ArithmeticError``."""
    found: float | bool = _value(parsed(text), lookup)
    return found


def _names(node: ast.expr) -> frozenset[str]:
    match node:
        case ast.Constant(value=int() | float()):
            return frozenset()
        case ast.Name() | ast.Attribute():
            return frozenset({_dotted(node)})
        case ast.UnaryOp(op=op, operand=inner) if type(op) in _ONE:
            return _names(inner)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _TWO:
            return _names(left) | _names(right)
        case ast.Compare(left=left, ops=ops, comparators=rest) if all(type(op) in _TWO for op in ops):
            return frozenset().union(*(_names(each) for each in (left, *rest)))
        case ast.BoolOp(values=values):
            return frozenset().union(*(_names(each) for each in values))
        case ast.Call(func=ast.Name(id=name), args=values, keywords=[]) if name in _CALLS and values:
            return frozenset().union(*(_names(each) for each in values))
    raise InvalidInput(f"{ast.unparse(node)!r} is no arithmetic of claims")


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=inner, attr=name):
            return f"{_dotted(inner)}.{name}"
    raise InvalidInput(f"{ast.unparse(node)!r} is no name")


def _value(node: ast.expr, lookup: Lookup) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            return lookup(_dotted(node))
        case ast.UnaryOp(op=op, operand=inner):
            return _ONE[type(op)](_value(inner, lookup))
        case ast.BinOp(left=left, op=op, right=right):
            return _TWO[type(op)](_value(left, lookup), _value(right, lookup))
        case ast.Compare(left=left, ops=ops, comparators=rest):
            values = [_value(each, lookup) for each in (left, *rest)]
            return all(_TWO[type(op)](*pair) for op, pair in zip(ops, pairwise(values), strict=True))
        case ast.BoolOp(op=op, values=values):
            judged = (_value(each, lookup) for each in values)
            return all(judged) if isinstance(op, ast.And) else any(judged)
        case ast.Call(func=ast.Name(id=name), args=values):
            return _CALLS[name](*(_value(each, lookup) for each in values))
    raise AssertionError(node)
