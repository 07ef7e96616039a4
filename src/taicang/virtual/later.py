"""Changes of modules of PyTorch that take effect as a program imports them: few programs do, and they take long."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

PROPAGATION = "torch.distributed.tensor._sharding_prop"
LISTS = ("_foreach_", "_fused_", "_amp_foreach_")
"""Operators of DTensor that treat each element of their lists by itself."""


class Later:
    """Finds the module ``name`` as Python would, and runs ``change`` on it once it is there."""

    def __init__(self, name: str, change: Callable[[Any], None]) -> None:
        self.name, self.change = name, change

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Its module with the change behind it."""
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        found: Any = importlib.util.find_spec(name)
        run = found.loader.exec_module

        def execute(module: Any) -> None:
            run(module)
            self.change(module)

        found.loader.exec_module = execute
        return found


def changed(name: str, change: Callable[[Any], None]) -> None:
    """Run ``change`` on the module ``name``, now or as soon as it is imported."""
    if name in sys.modules:
        change(sys.modules[name])
    else:
        sys.meta_path.insert(0, Later(name, change))


def undisabled(fn: Any = None, recursive: bool = True, **_: Any) -> Any:
    """What keeps a compiler away: there is none, so functions stay as they are, and it is not imported."""
    return fn if fn is not None else lambda given: given


def hasten() -> None:
    """Before PyTorch is imported: nothing loads its compiler unless the program does, and DTensor asks once for what
    is alike in the lists of an optimizer."""
    changed("torch._compile", lambda module: setattr(module, "_disable_dynamo", undisabled))
    changed(PROPAGATION, lambda module: _alike(module.ShardingPropagator, module.OpSchema, module.DTensorSpec))


def _alike(kind: Any, schema_of: Any, spec: type) -> None:
    name = "propagate_op_sharding_non_cached"
    each = getattr(kind, name)

    def propagate(self: Any, schema: Any) -> Any:
        """As PyTorch's, where rows of the operator's lists that are the same are asked for once."""
        args = schema.args_schema
        many = next((len(a) for a in args if isinstance(a, (list, tuple)) and a and isinstance(a[0], spec)), 0)
        if not many or not schema.op._schema.name.removeprefix("aten::").startswith(LISTS):
            return each(self, schema)
        lists = [i for i, a in enumerate(args) if isinstance(a, (list, tuple)) and len(a) == many]
        rows: dict[Any, int] = {}
        places = [rows.setdefault(row, len(rows)) for row in zip(*(args[i] for i in lists), strict=True)]
        fewer = list(args)
        for i, column in zip(lists, zip(*rows, strict=True), strict=True):
            fewer[i] = type(args[i])(column)
        few = schema_of(schema.op, tuple(fewer), schema.kwargs_schema, schema_info=schema.schema_info)
        found = each(self, few)
        made = found.output_spec
        if found.redistribute_schema is not None or isinstance(made, spec) or (made and len(made) != len(rows)):
            return each(self, schema)
        found.output_spec = made and type(made)(made[at] for at in places)
        return found

    setattr(kind, name, propagate)
