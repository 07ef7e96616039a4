"""``taicang view``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang import __version__, reading
from taicang.app.options import command
from taicang.errors import InvalidInput

if TYPE_CHECKING:
    from taicang.page.parts import Section

MOST_BYTES = 512 * 2**20


@command("view")
def view(paths: tuple[Path, ...], page_path: Path | None, port: int) -> None:
    """Stored results as one page: charts, tables, error bands; English and Chinese, light and dark."""
    from taicang.output import write
    from taicang.page.html import page

    found: list[Section] = []
    for index, path in enumerate(paths):
        found += _of(path, index if len(paths) > 1 else None)
    named = ", ".join(path.name for path in paths)
    with reading.expected("results that can be drawn", named):  # figures beyond all numbers
        made = page(named, found)
    if page_path is not None:
        write({page_path.name: made}, page_path.parent, "--html")
        click.echo(f"wrote {page_path}", err=True)
        return
    _show(made.encode(), port)


def _of(path: Path, index: int | None) -> list[Section]:
    """Sections of one stored result; of several each says whose it is."""
    from dataclasses import replace

    from taicang.evidence.near import grounded
    from taicang.page.views import kind_of, sections

    result = _folder(path) if path.is_dir() else _read(path)
    kind = kind_of(result, str(path))
    for each in result if isinstance(result, list) else (result, *result.values()):
        made_by = str(each.get("version", __version__)) if isinstance(each, dict) else __version__
        if made_by.split(".")[:2] != __version__.split(".")[:2]:  # figures and names may mean something else
            raise InvalidInput(f"made by taicang {made_by[:20]}, this is {__version__}: make it anew", where=str(path))
    with reading.expected(f"a result of {kind}", str(path)):
        made = sections(kind, grounded(result))
    if index is None:
        return made
    return [
        replace(
            each, key=f"{index}-{each.key}", title=(f"{path.name}: {each.title[0]}", f"{path.name}：{each.title[1]}")
        )
        for each in made
    ]


def _read(path: Path) -> Any:
    return reading.document(reading.text(path, most=MOST_BYTES), str(path))


def _folder(path: Path) -> dict[str, Any]:
    """A run of replay: its summary, with the tables that lie beside it."""
    if not (path / "summary.json").is_file():
        why = "no summary.json: not what replay --out writes"
        if (path / "capture.json").is_file():
            why = "a capture of run: taicang reprice prices it, and --html makes its page"
        raise InvalidInput(why, where=str(path))
    result = _read(path / "summary.json")
    if not isinstance(result, dict):
        raise InvalidInput("not an object", where=str(path / "summary.json"))
    for name, key in (("requests", "table"), ("usage", "usage")):
        columns = _table(path / name)
        if columns is not None:
            result[key] = columns
    return result


def _table(path: Path) -> dict[str, list[Any]] | None:
    """Columns of a table in JSON or CSV; None where it is in neither."""
    import csv

    table = path.with_suffix(".csv")
    if path.with_suffix(".json").is_file():
        found = _read(path.with_suffix(".json"))
        if isinstance(found, dict):
            return found
        return {key: [row.get(key) for row in found] for key in found[0]} if found else None
    if not table.is_file():
        return None
    with reading.expected("a table of replay", str(table)):
        rows = list(csv.DictReader(reading.text(table, most=MOST_BYTES).splitlines(), strict=True))
        return {key: [_number(row[key]) for row in rows] for key in rows[0]} if rows else None


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _show(made: bytes, port: int) -> None:
    """Serve one page to this machine until Ctrl-C."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path in ("/", "/index.html")
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(made) if known else 0))
            self.end_headers()
            if known:
                self.wfile.write(made)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: nobody reads it."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Page)
    except OSError as error:
        raise InvalidInput(f"port {port}: {error.strerror or error}", where="--port") from None
    click.echo(f"http://127.0.0.1:{server.server_address[1]}/  (Ctrl-C ends it)")
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        click.echo("")
    finally:
        server.server_close()
