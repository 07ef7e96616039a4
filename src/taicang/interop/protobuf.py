"""Just enough of protocol buffers' wire format to read length-delimited streams of messages.

Encoding: https://protobuf.dev/programming-guides/encoding (varints, fields of wire types 0, 1, 2 and 5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

Value: TypeAlias = int | bytes
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT = 10


class Torn(ValueError):
    """Bytes that are no message; ``at`` is where."""

    def __init__(self, why: str, at: int) -> None:
        super().__init__(why)
        self.at = at


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at`` and the place behind it."""
    value = shift = 0
    for place in range(at, at + LONGEST_VARINT):
        if place >= len(data):
            raise Torn("cut short in a number", at)
        value |= (data[place] & 0x7F) << shift
        if data[place] < 0x80:
            return value, place + 1
        shift += 7
    raise Torn("a number of more than ten bytes", at)


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(Place, bytes) of each message of a stream in which a length stands before each."""
    at = 0
    while at < len(data):
        size, begin = varint(data, at)
        if begin + size > len(data):
            raise Torn(f"cut short: {size} bytes announced, {len(data) - begin} there", at)
        yield begin, data[begin : begin + size]
        at = begin + size


def fields(data: bytes, base: int = 0) -> Iterator[tuple[int, int, Value]]:
    """(Number, wire type, value) of each field; fixed ones as their bytes. ``data`` lies at ``base`` in the file."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = varint(data, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = varint(data, at)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise Torn(f"wire type {wire} of field {number} is none that is in use", base + at)
        if at + size > len(data):
            raise Torn(f"cut short in field {number}", base + at)
        yield number, wire, data[at : at + size]
        at += size


def packed(value: Value) -> list[int]:
    """Numbers of a repeated field: one, or several packed."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        each, at = varint(value, at)
        found.append(each)
    return found


def signed(value: int) -> int:
    """A 64-bit two's complement number."""
    return value - (1 << 64) if value >> 63 else value


def zigzag(value: int) -> int:
    """A number of the kinds "sint32" and "sint64"."""
    return (value >> 1) ^ -(value & 1)


def double(value: bytes) -> float:
    """Eight or four bytes as a floating-point number."""
    return float(struct.unpack("<d" if len(value) == 8 else "<f", value)[0])


def encoded(value: int) -> bytes:
    """A number as a varint (64 bits, two's complement)."""
    value &= (1 << 64) - 1
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def field(number: int, value: int | float | str | bytes) -> bytes:
    """One field, tag first."""
    if isinstance(value, int):
        return encoded(number << 3 | VARINT) + encoded(value)
    if isinstance(value, float):
        return encoded(number << 3 | FIXED64) + struct.pack("<d", value)
    raw = value.encode() if isinstance(value, str) else value
    return encoded(number << 3 | BYTES) + encoded(len(raw)) + raw
