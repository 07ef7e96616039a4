"""The endpoint on real sockets, among clients that behave badly (uvicorn is an extra: taicang[serve])."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress

import pytest

pytest.importorskip("uvicorn", reason="the endpoint's server is an extra")
pytest.importorskip("httptools", reason="the endpoint's server is an extra")

SERVE = ["serve", "llama-3.1-8b", "--on", "hgx-h100", "--tp", "1", "--instances", "2", "--json"]
IMPATIENT = "import taicang.live.server as s, taicang.app.main as m; s.REQUEST_S = s.STUCK_S = 1.0; m.main()"
PATIENCE_S = 500.0
"""Of a wait that a busy machine makes long; what never ends is told by it."""
BODY = {"model": "llama-3.1-8b", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


def free_port():
    """One that is free, and so is the one after it."""
    while True:
        with socket.socket() as probe, socket.socket() as beside:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            with suppress(OSError, OverflowError):
                beside.bind(("127.0.0.1", port + 1))
                return port


def start(*options):
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", IMPATIENT, *SERVE, "--port", str(port), *options],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    while process.poll() is None:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return process, port
        time.sleep(0.1)
    raise AssertionError(process.communicate())


def stop(process):
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def port():
    process, port = start()
    yield port
    code, out, err = stop(process)
    assert code == 0, err
    assert json.loads(out)["summary"]["finished"] > 0
    assert "Traceback" not in err


def call(port, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=PATIENCE_S) as answer:
        return json.loads(answer.read())


def connect(port, data=b""):
    made = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    made.sendall(data)
    return made


def request(body=None, path="/v1/chat/completions", extra=""):
    data = json.dumps(body or BODY).encode()
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{extra}content-length: {len(data)}\r\n\r\n".encode() + data


def read_all(made):
    parts = []
    with suppress(ConnectionResetError):
        while part := made.recv(65536):
            parts.append(part)
    return b"".join(parts)


def settled(port):
    for _ in range(6000):  # ten thousand streams take a busy machine more than a minute
        state = call(port, "/admin/state")
        if not state["streams"] and not any(each["requests"] or each["cache_ratio"] for each in state["instances"]):
            return True
        time.sleep(0.05)
    return False


def test_streams_are_paced_and_connections_are_kept(port):
    began = time.monotonic()
    made, data = connect(port, request({**BODY, "max_tokens": 40})), b""
    while b"[DONE]" not in data:
        data += made.recv(65536)
    assert data.count(b"data: {") == 41
    assert time.monotonic() - began > 0.1  # however late this one reads: none is sent before its time
    made.sendall(request({**BODY, "stream": False, "max_tokens": 3}, extra="connection: close\r\n"))
    assert b'"completion_tokens": 3' in read_all(made)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01 nonsense\r\n\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 200_000, b" 431 "),
        (request(extra="x: " + "y" * 100_000 + "\r\n"), b" 431 "),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 10000000\r\n\r\n", b" 413 "),
        (b"GET /../../etc/passwd HTTP/1.1\r\nconnection: close\r\n\r\n", b" 404 "),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{]", b" 400 "),
        (b"BREW /v1/completions HTTP/1.1\r\n\r\n", b" 400 "),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b" 400 "),
        *((b"POST /v1/completions HTTP/1.1\r\n" + head + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b" 400 ") for head in (
            b"content-length: 12\r\ntransfer-encoding: chunked", b"transfer-encoding: chunked\r\ncontent-length: 3",
            b"content-length: 12\r\ncontent-length: 12", b"content-length: 12\r\ncontent-length: 3",
            b"content-length: 12, 12", b"content-length: -5", b"content-length: +5", b"content-length: 0x1",
            b"content-length: 99999999999999999999999", "content-length: ٣".encode(), b"transfer-encoding: xchunked",
            b"transfer-encoding: chunked, identity", b"transfer-encoding : chunked", b"transfer-encoding:\r\n chunked",
        )),
        *((b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + body, b" 400 ") for body in (
            b"1\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"fffffffffffffffff\r\n{}", b"zz\r\n{}",
            b"2;a=b\r\n{}\r\n0\r\nx: y\r\n\r\n",  # well formed: what it says is refused
        )),
        *((b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body), b" 400 ") for body in (
            b"[" * 100_000, b'{"a":' * 100_000, b'{"model":"llama-3.1-8b","prompt":"a","max_tokens":%b}' % (b"9" * 999),
            b'{"model":"llama-3.1-8b","prompt":"a","temperature":NaN}', b'{"model":"llama-3.1-8b","prompt":"\\ud800"}',
            b'{"model":"llama-3.1-8b","prompt":"\xed\xa0\x80"}', b'{"model":"llama-3.1-8b","prompt":"\xe9"}', b"",
        )),
        (b"POST /v1/chat/completions HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n", b" 100 "),
        (b"POST /v1/chat/completions HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 99999999\r\n\r\n", b" 413 "),
    ],
)  # fmt: skip
def test_what_is_wrong_has_its_status(port, data, status):
    made = connect(port)
    with suppress(BrokenPipeError, ConnectionResetError):
        made.sendall(data)
    made.settimeout(60)
    assert status in made.recv(300)


def test_old_clients_get_their_answers_without_chunks(port):
    made = connect(port, request({**BODY, "max_tokens": 3}).replace(b"HTTP/1.1", b"HTTP/1.0"))
    head, _, body = read_all(made).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body.startswith(b"data: {")
    assert body.endswith(b"}\n\ndata: [DONE]\n\n")
    made = connect(port, request({**BODY, "max_tokens": 3, "stream": False}).replace(b"HTTP/1.1", b"HTTP/1.0"))
    head, _, body = read_all(made).partition(b"\r\n\r\n")
    assert int(re.search(rb"content-length: (\d+)", head)[1]) == len(body)


def test_calls_that_come_at_once_are_answered_one_by_one(port):
    close = request({**BODY, "max_tokens": 2}, extra="connection: close\r\n")
    said = read_all(connect(port, request({**BODY, "max_tokens": 2}) * 20 + close))
    assert said.count(b"HTTP/1.1 200 OK") == said.count(b"[DONE]") == 21


def test_who_only_reads_any_more_gets_the_rest_or_leaves_nothing(port):
    for _ in range(20):
        made = connect(port, request({**BODY, "max_tokens": 400}))
        made.shutdown(socket.SHUT_WR)
        made.recv(100)
        made.close()
    assert settled(port)


def test_a_long_prompt_does_not_hold_up_the_tokens_of_others(port):
    made = connect(port, request({**BODY, "max_tokens": 1000}))
    long = {"model": "llama-3.1-8b", "prompt": "word " * 1_000_000, "max_tokens": 2}
    reader = connect(port, request(long, path="/v1/completions", extra="connection: close\r\n"))
    parts = 0
    while reader not in select.select([reader, made], [], [], PATIENCE_S)[0]:
        parts += 1
        assert made.recv(65536)
    assert b"context_length_exceeded" in read_all(reader)
    assert parts > 10
    made.close()


def test_a_request_that_never_comes_whole_is_let_go(port):
    slow = [connect(port, b"GET /v1/models HTTP/1.1\r\nx: y"), connect(port), connect(port, request()[:-5])]
    time.sleep(0.4)
    slow[0].sendall(b"z")
    assert [read_all(each) for each in slow] == [b""] * 3  # else the connections here time out


@pytest.mark.parametrize("many", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_that_drop_and_many_that_never_read_disturb_nobody(port, many):
    body = {**BODY, "max_tokens": 3000}
    silent = []
    for _ in range(many):
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        made.connect(("127.0.0.1", port))
        made.sendall(request(body))
        silent.append(made)
    dropping = [connect(port, request(body)) for _ in range(many)]
    for i, made in enumerate(dropping):
        if i % 2:
            made.recv(10)
        made.close()
    answer = call(port, "/v1/chat/completions", {**BODY, "stream": False, "max_tokens": 20})
    assert answer["usage"]["completion_tokens"] == 20
    for made in silent:
        made.close()
    assert settled(port)
    assert call(port, "/v1/models")["data"][0]["id"] == "llama-3.1-8b"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read as Linux tells it")
def test_ten_thousand_open_streams_take_little_memory():
    resource = pytest.importorskip("resource", reason="limits are those of Unix")
    count, (_, most) = 10_000, resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < count + 500:
        pytest.skip(f"this host allows a process {most} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    process, port = start("--speed", "0.01")
    try:
        opened = [connect(port, request({**BODY, "max_tokens": 500})) for _ in range(count)]
        for _ in range(1200):
            if call(port, "/admin/state")["streams"] == count:
                break
            time.sleep(0.1)
        assert call(port, "/admin/state")["streams"] == count
        with open(f"/proc/{process.pid}/status") as file:
            held = int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1])
        for each in opened:
            each.close()
        assert settled(port)
        code, _, err = stop(process)
        assert code == 0, err
    finally:
        process.kill()
    assert held < 1_500_000


def test_ctrl_c_ends_open_streams():
    process, port = start()
    made = connect(port, request({**BODY, "max_tokens": 8000}))
    assert made.recv(100)
    call(port, "/v1/chat/completions", {**BODY, "stream": False, "max_tokens": 2})
    code, out, err = stop(process)
    assert (code, json.loads(out)["summary"]["finished"]) == (0, 1), err  # the stream was not waited for
    with pytest.raises(OSError, match="refused"):
        connect(port)


def status(port, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_each_rank_has_a_port_with_its_own_requests_health_and_figures():
    process, port = start("--data-parallel-ports")
    ranks = (port, port + 1)
    body = {**BODY, "stream": False, "max_tokens": 3}
    for count, each in enumerate(ranks, 1):
        for _ in range(count):
            assert call(each, "/v1/chat/completions", body)["usage"]["completion_tokens"] == 3
    for number, each in enumerate(ranks):
        _, figures = status(each, "/metrics")
        assert f'finished_reason="length",model_name="llama-3.1-8b"}} {number + 1}\n' in figures
        assert set(re.findall(r'engine="(\d+)"', figures)) == {str(number)}
        assert f'vllm:inter_token_latency_seconds_count{{model_name="llama-3.1-8b"}} {2 * (number + 1)}' in figures
        assert json.loads(status(each, "/load")[1]) == {"server_load": 0}
    assert status(port, "/admin/fail", {"instance": 1})[0] == 200
    while call(port, "/admin/state")["instances"][1]["state"] != "down":
        time.sleep(0.05)
    assert [status(each, "/health")[0] for each in ranks] == [200, 503]
    assert [status(each, "/ready")[0] for each in ranks] == [200, 503]
    assert [status(each, "/v1/chat/completions", body)[0] for each in ranks] == [200, 503]
    code, out, err = stop(process)
    assert (code, json.loads(out)["summary"]["finished"]) == (0, 4), err
    assert "ranks 1 to 1 at" in err
    for each in ranks:
        with pytest.raises(OSError, match="refused"):
            connect(each)


def test_a_rank_without_a_port_is_one_line():
    command = [sys.executable, "-m", "taicang", *SERVE, "--port", "65535", "--data-parallel-ports"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert "--port: cannot listen on 127.0.0.1:65536" in ran.stderr


def test_a_port_in_use_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "taicang", *SERVE, "--port", port]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=os.environ)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert "--port: cannot listen on 127.0.0.1" in ran.stderr
