"""A small router: a call goes to the endpoint that is ready and has the least to do. router.py PORT ENDPOINT..."""

import http.client
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOOK_S = 0.1


class Endpoint:
    """One `taicang serve`, and what it last said of itself."""

    def __init__(self, address):
        self.address = address
        self.ready, self.load, self.sent = False, 0, 0

    def ask(self, path):
        connection = http.client.HTTPConnection(self.address, timeout=2)
        connection.request("GET", path)
        return connection.getresponse()

    def watch(self):
        """Look whether it is ready, and how many requests it has, again and again."""
        while True:
            try:
                self.ready = self.ask("/ready").status == 200
                self.load = json.load(self.ask("/load"))["server_load"]
            except OSError:
                self.ready = False
            time.sleep(LOOK_S)


class Router(BaseHTTPRequestHandler):
    """Passes a call on, and its answer back as it comes."""

    endpoints = []
    lock = threading.Lock()

    def do_GET(self):
        body = json.dumps({each.address: each.sent for each in self.endpoints}).encode()
        self.answer(200, "application/json", [body])

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        while chosen := self.choose():
            try:
                there = http.client.HTTPConnection(chosen.address, timeout=600)
                there.request("POST", self.path, body, {"Content-Type": "application/json"})
                answer = there.getresponse()
            except OSError:
                chosen.ready = False
                continue
            if answer.status == 503:  # it has failed since it was last looked at: the next one
                chosen.ready = False
                continue
            chosen.sent += 1
            self.answer(answer.status, answer.getheader("Content-Type", ""), iter(lambda: answer.read1(65536), b""))
            return
        self.answer(503, "application/json", [b'{"error": {"message": "no endpoint is ready"}}'])

    def choose(self):
        with self.lock:
            chosen = min((each for each in self.endpoints if each.ready), key=lambda each: each.load, default=None)
            if chosen:
                chosen.load += 1  # until it is asked again
            return chosen

    def answer(self, status, kind, parts):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        for part in parts:
            self.wfile.write(part)
            self.wfile.flush()

    def log_message(self, *words):
        pass


if __name__ == "__main__":
    port, *addresses = sys.argv[1:]
    Router.endpoints = [Endpoint(address) for address in addresses]
    for each in Router.endpoints:
        threading.Thread(target=each.watch, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", int(port)), Router).serve_forever()
