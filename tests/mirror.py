"""A subscriber's picture of caches, from what they tell."""

from __future__ import annotations

import time

FIELDS = {
    "BlockStored": {
        "type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name",
    },
    "BlockRemoved": {"type", "block_hashes", "medium"},
    "AllBlocksCleared": {"type"},
}  # fmt: skip


class Mirror:
    """A subscriber's picture of each rank."""

    def __init__(self):
        self.held = {}

    def send(self, rank, batch):
        at, events, named = batch
        assert abs(time.time() - at) < 600
        assert named == rank
        held = self.held.setdefault(rank, {})
        for event in events:
            assert set(event) == FIELDS[event["type"]]
            if event["type"] == "AllBlocksCleared":
                held.clear()
            elif event["type"] == "BlockRemoved":
                for block in event["block_hashes"]:
                    del held[block]
            else:
                parent, size = event["parent_block_hash"], event["block_size"]
                assert parent is None or parent in held
                assert len(event["token_ids"]) == size * len(event["block_hashes"])
                for i, block in enumerate(event["block_hashes"]):
                    assert block not in held
                    held[block] = event["token_ids"][i * size : (i + 1) * size]
