"""The one exception tree. Bad input raises from here; an infeasible plan is a value, not an error."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unless_interrupted(error: Exception) -> None:
    """Raise ``KeyboardInterrupt`` where ``error`` is Ctrl-C in disguise.

    Python up to 3.11 makes a ``RuntimeError`` of whatever is raised in ``__set_name__``, which runs while a class is
    made: whoever is about to import a module and to handle every exception asks this first.
    """
    if isinstance(error.__cause__, KeyboardInterrupt):
        raise KeyboardInterrupt from error


class TaicangError(Exception):
    """Root of everything taicang raises on purpose."""


class InvalidInput(TaicangError):
    """A file, key, flag or value that the user gave is wrong.

    ``where`` names the place as precisely as it is known: file, line, key.
    """

    def __init__(self, message: str, *, where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where


LISTED = 12
"""As many known names are all listed where none is near."""


class UnknownName(InvalidInput):
    """A name that is not in the catalogue; suggests the nearest ones, and all where they are few."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str = "") -> None:
        listed = list(dict.fromkeys(known))
        low = [each.lower() for each in listed]
        begun = sorted((each for each in low if name and each.startswith(name.lower())), key=len)  # left off half-way
        near = [*dict.fromkeys([*begun, *get_close_matches(name.lower(), low, n=3, cutoff=0.5)])][:3]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        if listed and len(listed) <= LISTED:
            hint += f"; one of {', '.join(listed)}"
        elif listed and not near:
            hint = f"; the nearest are {', '.join(get_close_matches(name.lower(), low, n=3, cutoff=0.0))}"
        super().__init__(f"unknown {kind} {name!r}{hint}", where=where)
        self.name = name
        self.near = tuple(near)


class UnitError(InvalidInput):
    """A quantity without a unit, or with one of another dimension."""


class MissingFigure(TaicangError):
    """A prediction needs a figure that no public source gives (``unknown`` in the catalogue)."""

    def __init__(self, entry: str, key: str) -> None:
        super().__init__(
            f"{entry}: no public figure for {key}; supply one with --set {key}=VALUE "
            f"or in a file of your own with 'base: {entry}'"
        )
        self.entry = entry
        self.key = key


class NotModelled(TaicangError):
    """A feature, operator or combination that taicang refuses rather than guesses."""


class InvalidPlan(InvalidInput):
    """A plan that breaks a rule of the model or the machine; names the rule and by how much."""
