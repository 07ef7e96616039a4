"""Modules in place of libraries that need real devices: what a face lacks is refused by name where it is used."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from taicang.virtual.spec import NeedsDevice


class Refused:
    """A name that a face does not have: it may be imported, and says what to do where it is used."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Refused(f"{self.__name__}.{name}")

    def __call__(self, *_: Any, **__: Any) -> Any:
        """What it is used for, refused."""
        raise NeedsDevice(refusal(self.__name__))

    def __mro_entries__(self, bases: Any) -> Any:
        """Nothing may be derived of it."""
        return self()


def refusal(name: str) -> str:
    """What the user is told of a kernel that nobody knows."""
    return f"{name}: its kernels need a real device, and nothing can tell what they do; {advice(name)}"


def advice(name: str) -> str:
    """What to register so that a kernel is known."""
    last = name.rpartition(".")[2]
    return (
        "make it an operator with torch.library.custom_op and give it a shape rule, "
        f'torch.library.register_fake("...::{last}")'
    )


class Face(types.ModuleType):
    """A module that has some of a library's names, and refuses the others."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Refused(f"{self.__name__}.{name}")


def module(name: str, **members: Any) -> types.ModuleType:
    """A module by this name, and its parents."""
    made = Face(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    made.__path__ = []
    made.__dict__.update(members)
    sys.modules[name] = made
    parent, _, leaf = name.rpartition(".")
    if parent:
        if parent not in sys.modules:
            module(parent)
        setattr(sys.modules[parent], leaf, made)
    return made


class Faces(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Puts a face in place as another file of the program imports what is not there."""

    def __init__(self, script: Path, makers: Mapping[str, Callable[[], None]]) -> None:
        self.place, self.makers = f"{script.resolve().parent}/", makers
        sys.meta_path.append(self)

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Of a library that has a face, where the program asks; of any part of one that has it already."""
        root = name.partition(".")[0]
        if root not in self.makers or not (isinstance(sys.modules.get(root), Face) or self._asked()):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        """The face's own part, or one that refuses everything."""
        root = spec.name.partition(".")[0]
        if not isinstance(sys.modules.get(root), Face):
            self.makers[root]()
        return sys.modules.get(spec.name) or module(spec.name)

    def exec_module(self, module: Any) -> None:
        """Nothing: it is as it was made."""

    def _asked(self) -> bool:
        frame: Any = sys._getframe(2)
        while frame is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        name = os.path.abspath(frame.f_code.co_filename) if frame is not None else ""
        return name.startswith(self.place) and "site-packages" not in name.removeprefix(self.place)


def put(text: str, script: Path, makers: Mapping[str, Callable[[], None]]) -> None:
    """Faces of what the program's text names and nobody installed or laid beside it, now; of what its other files
    import, then."""
    beside = [str(script.resolve().parent), *sys.path]
    for name, make in makers.items():
        named = re.search(rf"^\s*(import|from)\s+{name}\b", text, re.MULTILINE)
        if named and importlib.machinery.PathFinder.find_spec(name, beside) is None:
            make()
    Faces(script, makers)
