"""``taicang trace`` as a user runs it."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from taicang.app.download import download
from taicang.app.main import cli
from taicang.catalog import profiles
from taicang.errors import InvalidInput, TaicangError, UnknownName


def run(*arguments: str):
    return CliRunner().invoke(cli, ["trace", *arguments], catch_exceptions=False)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.csv"
    rows = "".join(f"{i},{100 + i},6\n" for i in range(100))
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + rows)
    return path


def test_convert_changes_and_joins(source, tmp_path):
    out = tmp_path / "b.jsonl"
    result = run("convert", str(source), str(source), str(out), "--from", "10s", "--until", "60s", "--input-scale", "2",
                 "--rate", "4/s")  # fmt: skip
    assert result.exit_code == 0
    found = json.loads(run("info", str(out), "--json").output)
    assert found["requests"] == 100
    assert found["input_mean"] == pytest.approx(2 * 134.5)
    assert found["rate_per_s"] == pytest.approx(4.0, rel=0.02)
    assert not list(tmp_path.glob("*.part"))


def test_convert_says_what_a_format_cannot_hold(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}) + "\n")
    assert "no place for: blocks" in run("convert", str(path), str(tmp_path / "c.csv")).output


def test_convert_refuses_before_it_writes(source, tmp_path):
    with pytest.raises(InvalidInput, match=r"expected \.jsonl"):
        run("convert", str(source), str(tmp_path / "b.txt"))
    assert run("convert", str(source)).exit_code == 2
    assert sorted(tmp_path.iterdir()) == [source]


def test_info_draws_arrivals_and_profiles_are_listed(source):
    assert "█" in run("info", str(source)).output
    listed = run("profiles").output
    assert "servegen-deepseek-r1" in listed
    assert "mooncake-conversation" in json.loads(run("profiles", "--json").output)


# downloads, from a server on this machine

DATA = bytes(range(256)) * 8000
SUM = hashlib.sha256(DATA).hexdigest()


class Handler(BaseHTTPRequestHandler):
    torn = 0
    asked: list[str | None]

    def do_GET(self):
        kind, begin = self.server.kind, self.headers.get("Range")
        self.server.asked.append(begin)
        if kind == "missing":
            self.send_error(404)
            return
        low = int(begin.removeprefix("bytes=").removesuffix("-")) if begin and kind != "plain" else 0
        self.send_response(206 if low else 200)
        self.send_header("Content-Length", str(len(DATA) - low))
        self.end_headers()
        end = len(DATA)
        if kind == "always torn" or (kind == "torn" and len(self.server.asked) == 1):
            end = min(low + 700_000, len(DATA) - 1)
        self.wfile.write(DATA[low:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked = []
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def entry(server, kind, total=SUM):
    server.kind = kind
    return {"name": "x", "url": f"http://127.0.0.1:{server.server_port}/x.jsonl", "sha256": total}


def test_a_good_file_comes_whole_and_once(server, tmp_path):
    path = download(entry(server, "plain"), tmp_path / "new")
    assert path.read_bytes() == DATA
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.jsonl"]
    download(entry(server, "plain"), tmp_path / "new")
    assert len(server.asked) == 1


def test_a_wrong_sum_is_refused_and_nothing_kept(server, tmp_path):
    with pytest.raises(InvalidInput, match="is not 00"):
        download(entry(server, "plain", "00"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_torn_connection_is_resumed(server, tmp_path):
    assert download(entry(server, "torn"), tmp_path).read_bytes() == DATA
    assert server.asked == [None, "bytes=700000-"]


def test_what_came_is_kept_for_the_next_call(server, tmp_path):
    with pytest.raises(TaicangError, match=r"call again"):
        download(entry(server, "always torn", SUM), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl.part"]
    before = len(server.asked)
    assert download(entry(server, "good"), tmp_path).read_bytes() == DATA
    assert server.asked[before].startswith("bytes=")
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


def test_a_server_that_cannot_resume_sends_all(server, tmp_path):
    (tmp_path / "x.jsonl.part").write_bytes(b"old rubbish")
    assert download(entry(server, "plain"), tmp_path).read_bytes() == DATA


def test_what_is_not_there_leaves_nothing(server, tmp_path):
    with pytest.raises(TaicangError, match="404"):
        download(entry(server, "missing"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_fetch_by_name(server, tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "downloads", lambda: {"x": entry(server, "plain")})
    assert run("fetch", "x", "--out", str(tmp_path)).output.strip() == str(tmp_path / "x.jsonl")
    with pytest.raises(UnknownName):
        run("fetch", "y")


def test_without_a_checksum_nothing_is_fetched():
    with pytest.raises(InvalidInput, match="no address and checksum"):
        run("fetch", "azure-llm-2024-code")
    with pytest.raises(UnknownName, match="mooncake-toolagent"):
        run("fetch", "mooncake-tolagent")
