"""Durations counted by size: tokens are too many to keep each one's."""


def bucket(ticks: int) -> int:
    """A key for durations that differ by less than a sixteenth."""
    size = ticks.bit_length()
    return size << 4 | ticks >> max(size - 5, 0) & 15


def duration(key: int) -> float:
    """Ticks in the middle of a bucket."""
    size, part = key >> 4, key & 15
    return (16 + part + 0.5) * 2.0 ** (size - 5)
