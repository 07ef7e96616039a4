"""Changes of modules of PyTorch that take effect as a program imports them: few programs do, and they take long."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from typing import Any

COMPILER = "torch._dynamo"
PIECES = "torch.distributed.fsdp._fully_shard._fsdp_common"
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


class Absent(types.ModuleType):
    """A module of PyTorch that is imported as soon as somebody asks for what this does not answer itself."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.util.find_spec(name)
        self.__file__ = getattr(self.__spec__, "origin", None)
        sys.modules[name] = self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.there(), name)

    def there(self) -> Any:
        """The module, imported in place of this."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return importlib.import_module(self.__name__)


class Package(Absent):
    """One with modules of its own, which import it too."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = list(getattr(self.__spec__, "submodule_search_locations", None) or ())
        self._finder: Any = types.SimpleNamespace(find_spec=self.find_spec)  # this itself would answer more than asked
        sys.meta_path.insert(0, self._finder)

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """A module of the package, which the package itself may have imported meanwhile."""
        if not name.startswith(f"{self.__name__}."):
            return None
        self.there()
        if name not in sys.modules:
            return importlib.util.find_spec(name)
        module: Any = sys.modules[name]  # Python would run it again by the specification that it carries
        loader: Any = types.SimpleNamespace(create_module=lambda _: module)
        loader.exec_module = lambda _, own=module.__spec__: setattr(module, "__spec__", own)
        module.__spec__ = ModuleSpec(name, loader)
        return module.__spec__

    def there(self) -> Any:
        """As ``Absent``'s; its modules need no finder from here on."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        return super().there()


class Compiler(Package):
    """PyTorch's compiler, imported as soon as somebody asks for more than to be left alone by it.

    Process groups, steps of optimizers and questions for shapes import it, to tell it to keep out or for its settings,
    which are a module by themselves.
    """

    disable = staticmethod(undisabled)
    graph_break = staticmethod(lambda *_, **__: None)
    trace_rules = types.SimpleNamespace(clear_lru_cache=graph_break)

    def __init__(self) -> None:
        super().__init__(COMPILER)
        name = f"{COMPILER}.config"
        found: Any = importlib.util.spec_from_file_location(name, f"{self.__path__[0]}/config.py")
        self.config = sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(self.config)


class Mathematics(Package):
    """The library for mathematics: PyTorch asks of every operand whether it is an expression; without it none is."""

    def __getattr__(self, name: str) -> Any:
        if name == "Basic" and sys._getframe(1).f_globals.get("__name__") == "torch._prims_common":
            return Mathematics
        return super().__getattr__(name)


class Pieces(Sequence[Any]):
    """A tensor in pieces for as many ranks, each made as it is asked for: one rank asks for two."""

    def __init__(self, tensor: Any, num_chunks: int, dim: int) -> None:
        self.tensor, self.many, self.dim = tensor, num_chunks, dim

    def __len__(self) -> int:
        return self.many

    def __getitem__(self, at: Any) -> Any:
        place, length = range(self.many)[at], self.tensor.size(self.dim)
        size = -(-length // self.many)
        if place and place * size >= length:
            return self.tensor.new_empty(0)
        return self.tensor.narrow(self.dim, place * size, min(size, length - place * size))


def concrete(value: Any) -> bool:
    """Whether no size in ``value`` is a symbol of PyTorch's algebra."""
    if isinstance(value, (list, tuple)):
        return all(map(concrete, value))
    shape = getattr(value, "shape", None)
    return value is None or isinstance(value, (bool, int, float)) or (isinstance(shape, tuple) and concrete(shape))


ALGEBRA = "torch.fx.experimental.symbolic_shapes"
PLAIN: dict[str, Callable[..., Any]] = {
    "guard_or_false": bool, "guard_or_true": bool, "statically_known_true": bool, "expect_true": bool,
    "guard_size_oblivious": bool, "_iterate_exprs": lambda _: iter(()), "_iterate_nodes": lambda _: iter(()),
    "is_nested_int": lambda _: False, "is_symbolic": lambda _: False, "has_guarding_hint": lambda _: True,
    "has_free_unbacked_symbols": lambda _: False, "free_unbacked_symbols": lambda _: (), "free_symbols": lambda _: (),
    "guarding_hint_or_throw": lambda size: size, "optimization_hint": lambda size, **_: size,
    "compute_unbacked_bindings": lambda *_, **__: None,
    "sym_eq": lambda a, b: a == b, "sym_and": lambda *each: all(each), "sym_or": lambda *each: any(each),
}  # fmt: skip
"""What questions about sizes come to where all of them are numbers."""


class Algebra(Absent):
    """Sizes as symbols, with a library for mathematics behind them: PyTorch's shape rules ask it about numbers too."""

    GuardOnDataDependentSymNode = type("GuardOnDataDependentSymNode", (RuntimeError,), {})

    def __init__(self) -> None:
        super().__init__(ALGEBRA)
        self.asked = {name: self._asked(name, answer) for name, answer in PLAIN.items()}
        vars(self).update(self.asked)

    def _asked(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*args: Any, **kwargs: Any) -> Any:
            if concrete((*args, *kwargs.values())):
                return answer(*args, **kwargs)
            return getattr(self.there(), name)(*args, **kwargs)

        return ask

    def there(self) -> Any:
        """As ``Absent``'s; who took something of this has that module's from here on."""
        if sys.modules.get(ALGEBRA) is not self:
            return super().there()
        real = super().there()
        given = {id(each): name for name, each in (self.asked | {"": self.GuardOnDataDependentSymNode}).items()}
        for module in list(sys.modules.values()):
            for key, value in list(getattr(module, "__dict__", {}).items()) if module is not self else ():
                if id(value) in given:
                    setattr(module, key, getattr(real, given[id(value)] or "GuardOnDataDependentSymNode"))
        return real


def hasten() -> None:
    """Before PyTorch is imported: nothing loads its compiler or a library for mathematics unless the program does, FSDP
    makes the pieces of this rank alone, and DTensor asks once for what is alike in the lists of an optimizer."""
    Mathematics("sympy")
    changed(PIECES, lambda module: setattr(module, "_chunk_with_empty", Pieces))
    changed("torch._compile", lambda module: setattr(module, "_disable_dynamo", undisabled))
    changed("torch.fx.experimental", lambda module: setattr(module, "symbolic_shapes", Algebra()))
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
