"""Write the generated parts of the documentation; ``--check`` says what differs and writes nothing.

Generated: reference pages (command line, catalogue, calibration, Python, scoreboard), the blocks between
``<!-- begin NAME -->`` and ``<!-- end NAME -->``, the output of every example (``blocks``) and the pictures.
Usage: python docs/generate.py [--check] [--slow] [--no-pictures]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

import blocks  # noqa: E402
import pictures  # noqa: E402
import reference_pages  # noqa: E402

ROOT = HERE.parent
READMES = (ROOT / "README.md", ROOT / "README.zh.md")
BLOCK = re.compile(r"(<!-- begin (?P<name>[\w-]+) -->\n).*?(<!-- end (?P=name) -->)", re.DOTALL)


def pages() -> list[Path]:
    """Every page that a person wrote (which may hold generated blocks and examples)."""
    made = {HERE / name for name in reference_pages.PAGES}
    return [*READMES, *sorted(path for path in HERE.rglob("*.md") if path not in made)]


def filled(text: str, *, chinese: bool = False) -> str:
    """``text`` with its generated blocks written anew."""
    return BLOCK.sub(lambda m: f"{m[1]}\n{reference_pages.block(m['name'], chinese=chinese)}\n\n{m[3]}", text)


def wanted() -> Iterator[tuple[Path, str]]:
    """Every file that is generated in whole or in part (examples apart), and what it should hold."""
    for name, make in reference_pages.PAGES.items():
        yield HERE / name, make()
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if BLOCK.search(text):
            yield path, filled(text, chinese=path.name.endswith(".zh.md"))


def stale() -> list[str]:
    """Files whose generated parts differ from what the code says now."""
    return [
        str(path.relative_to(ROOT))
        for path, text in wanted()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str]) -> int:
    """Write, or with ``--check`` report."""
    if "--check" in arguments:
        found = stale()
        for name in found:
            sys.stdout.write(f"differs from the code: {name} (run python docs/generate.py)\n")
        return 1 if found else 0
    for path, text in wanted():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    failed = 0
    for path in pages():
        text = path.read_text(encoding="utf-8")
        try:
            new = blocks.refreshed(text, str(path.relative_to(ROOT)), slow="--slow" in arguments)
        except Exception as error:  # the other pages can still be written
            sys.stdout.write(f"FAILED {path.relative_to(ROOT)}: {error!r}\n")
            failed = 1
            continue
        if new != text:
            path.write_text(new, encoding="utf-8")
            sys.stdout.write(f"examples of {path.relative_to(ROOT)}\n")
    if "--no-pictures" not in arguments:
        for path in pictures.draw_all(HERE / "images"):
            sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
