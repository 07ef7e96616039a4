"""Where the weights of a model are published: its id on Hugging Face."""

from __future__ import annotations

import os
from pathlib import Path

from taicang.catalog.models import names
from taicang.models.types import Model


def weights_of(spec: str, model: Model) -> str | None:
    """Where an engine finds the weights of the model that ``spec`` names: a Hugging Face id or a folder.

    An id that the user wrote stays as it is, for it may name a release of its own; of a folder the path is given; a
    built-in model has the id of its publisher. ``None`` where there is none.
    """
    text = spec.strip().partition(" (")[0]
    path = Path(text).expanduser()
    if os.path.isdir(path) and os.path.isfile(path / "config.json"):
        return str(path.resolve())
    local = text.startswith((".", "/", "~")) or path.suffix in (".json", ".yaml", ".yml")
    if not local and text.count("/") == 1:
        return text
    published: str | None = None if local else names()["weights"].get(model.name)
    return published
