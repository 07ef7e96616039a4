"""Memory beside the instances that keeps prompt blocks: shelves, the nearest first.

What an instance computed is written to every shelf beside the computing; each shelf makes room by its own rule. A new
prompt fetches each leading block from the nearest shelf that has it, the shelves side by side, and takes it up to all
of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from taicang.serve.request import Request
from taicang.serve.shelf import Shelf


class Store:
    """``shelves`` of blocks of ``block`` tokens. ``answers``: instances that only decode write too."""

    __slots__ = ("answers", "block", "shelves")

    def __init__(self, shelves: Sequence[Shelf], block: int, *, answers: bool = False) -> None:
        self.shelves = tuple(shelves)
        self.block = block
        self.answers = answers

    def match(self, request: Request, place: int, now: int) -> list[Shelf]:
        """The shelf of each leading block of the prompt that is here; the last token is always computed."""
        found: list[Shelf] = []
        for block in request.blocks[: (request.need - 1) // self.block]:
            shelf = next((shelf for shelf in self.shelves if shelf.holds(block, place, now)), None)
            if shelf is None:
                break
            found.append(shelf)
        return found

    def load(self, request: Request, found: Sequence[Shelf], here: int, now: int) -> int:
        """When the blocks after the first ``here`` tokens have reached the instance that ``request`` goes to."""
        wanted = found[here // self.block :]
        end = now
        for shelf in self.shelves:
            blocks = sum(1 for each in wanted if each is shelf)
            if blocks:
                end = max(end, shelf.load(blocks, blocks * self.block, request.place, now))
        self._keep(request, len(found), now)
        return end

    def put(self, request: Request, now: int) -> None:
        """Keep the whole named blocks of what is computed, the first of them the longest."""
        self._keep(request, min(request.named, request.input + max(request.made, 1) - 1) // self.block, now)

    def _keep(self, request: Request, count: int, now: int) -> None:
        blocks = request.blocks[:count][::-1]
        for shelf in self.shelves:
            shelf.keep(blocks, request.place, now)

    def lose(self, place: int) -> None:
        """The instance ``place`` is lost."""
        for shelf in self.shelves:
            shelf.lose(place)
