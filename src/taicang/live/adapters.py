"""LoRA adapters by name, as vLLM's clients load and unload them: each is a model to ask for, with a cache of its own.

Nothing is read, and a request costs what one to the base model costs: no public figures say what adapters add.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from zlib import crc32

from taicang.live.asked import Refused, checked, word
from taicang.live.jobs import Choice
from taicang.live.supernode import Supernode

MOST = 1024


class Adapters:
    """Of the models ``names``. ``roots`` has each one's base and where it is said to lie."""

    def __init__(self, names: Mapping[str, int]) -> None:
        self.names = names
        self.roots: dict[str, tuple[str, str]] = {}

    def base(self, name: str) -> str:
        """The model that answers to ``name``."""
        return self.roots.get(name, (name,))[0]

    def apart(self, name: str) -> int:
        """What the blocks of requests to ``name`` begin with: those of an adapter are of no use to others."""
        return crc32(name.encode()) if name in self.roots else 0  # the same in every process of a fleet

    def load(self, body: Mapping[str, Any]) -> str:
        """Another one. Raises ``Refused``."""
        name, given = _named(body)
        base = given.get("base_model_name", next(iter(self.names)))
        if name in self.roots or name in self.names:
            raise Refused(f"The lora adapter '{name}' has already been loaded.", param="lora_name")
        if base not in self.names:
            raise Refused(f"The model `{base[:200]}` does not exist.", status=404, param="base_model_name",
                          code="model_not_found")  # fmt: skip
        if len(self.roots) >= MOST:
            raise Refused(f"at most {MOST:,} adapters", param="lora_name")
        self.roots[name] = base, given.get("lora_path", name)
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body: Mapping[str, Any]) -> str:
        """One less. Raises ``Refused``."""
        name, _ = _named(body)
        if self.roots.pop(name, None) is None:
            raise Refused(f"The lora adapter '{name}' cannot be found.", status=404, param="lora_name",
                          code="not_found")  # fmt: skip
        return f"Success: LoRA adapter '{name}' removed successfully."

    def info(self, machine: Supernode) -> str:
        """Those that requests ask for, as vLLM exposes them."""
        if not self.roots:
            return ""
        asked: dict[bool, set[str]] = {True: set(), False: set()}
        for request, stream in machine.streams.items():
            if isinstance(stream, Choice) and stream.job.asked.model in self.roots:
                asked[request.started >= 0].add(stream.job.asked.model)
        running, waiting = (",".join(sorted(asked[at_work])) for at_work in (True, False))
        said = f'max_lora="{MOST}",running_lora_adapters="{running}",waiting_lora_adapters="{waiting}"'
        head = "# HELP vllm:lora_requests_info Adapters asked for.\n# TYPE vllm:lora_requests_info gauge\n"
        return f"{head}vllm:lora_requests_info{{{said}}} {time.time()}\n"


def _named(body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    given = checked(body, {"lora_name": word, "lora_path": word, "base_model_name": word})
    name = given.get("lora_name", "")
    if not 0 < len(name) <= 200 or not name.isprintable() or set(name) & set('"\\,'):
        raise Refused("lora_name: expected a name of up to 200 characters without quotes and commas", param="lora_name")
    return name, given
