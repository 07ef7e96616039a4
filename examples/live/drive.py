"""Send streamed chats at a steady rate and say what their users saw. python drive.py ADDRESS REQUESTS PER_S"""

import http.client
import json
import sys
import threading
import time


def chat(address, waits, lost):
    """One user: how long the first token took, or that it did not come."""
    began = time.monotonic()
    body = {"model": "qwen3-32b", "stream": True, "max_tokens": 50,
            "messages": [{"role": "user", "content": "Where is the grain? " * 100}]}  # fmt: skip
    try:
        connection = http.client.HTTPConnection(address, timeout=600)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer, first = connection.getresponse(), None
        for line in answer:
            if first is None and b'"content"' in line and b'"content":""' not in line.replace(b" ", b""):
                first = time.monotonic() - began
        if answer.status != 200 or first is None:
            raise OSError(answer.status)
        waits.append(first)
    except OSError as error:
        lost.append(error)


if __name__ == "__main__":
    address, count, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    waits, lost, users = [], [], []
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(began + number / rate - time.monotonic(), 0))
        users.append(threading.Thread(target=chat, args=(address, waits, lost)))
        users[-1].start()
    for each in users:
        each.join()
    waits.sort()
    slow = sum(each > 2 for each in waits)
    print(f"{len(waits)} answered, {len(lost)} lost; {slow} waited longer than 2 s for the first token")
