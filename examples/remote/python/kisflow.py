"""Remote functions for KisFlow in Python: protocol version 1, over NATS or HTTP, with the standard library alone.

    import kisflow

    def handle(row, state, ctx):
        state["n"] = state.get("n", 0) + 1
        return {"user": row["user"], "n": state["n"]}

    kisflow.serve(handle, "nats://127.0.0.1:4222/count.users")   # or "http://127.0.0.1:8080/"

handle gets a row, the state of its key, which it changes in place, and what else there is to know (ctx). It returns
a row, a list of rows, None, or True for the row as it came. What it raises is the reason of the row's dead letter;
the state is then as it was. The program keeps nothing, so it may be stopped and started at will, and run many times.
"""

import copy
import http.server
import json
import socket
import time
from urllib.parse import urlsplit


class Drop(Exception):
    """Raised for a row that is unwanted: it ends here, without a dead letter."""


def answer(handle, request):
    """The answer to a request, both as JSON."""
    q = json.loads(request)
    if q.get("v") != 1:
        return json.dumps({"v": 1, "error": "this program knows version 1 only"}).encode()
    results = []
    for call in q["calls"]:
        state = call.get("state") or {}
        rows = []
        for item in call["rows"]:
            before = copy.deepcopy(state)
            ctx = {"key": call["key"], "params": q["params"], "meta": item["meta"], "now": q["now"]}
            try:
                given = handle(item["row"], state, ctx)
                rows.append({"pass": True} if given is True else {"emit": [] if given is None else given if isinstance(given, list) else [given]})
            except Drop as e:
                state = before
                rows.append({"drop": str(e)})
            except Exception as e:  # the row's fault, and nobody else's
                state = before
                rows.append({"error": f"{type(e).__name__}: {e}"})
        results.append({"state": state, "rows": rows})
    return json.dumps({"v": 1, "id": q["id"], "results": results}).encode()


def serve(handle, url):
    """Answers requests for ever: nats://HOST:PORT/SUBJECT or http://HOST:PORT/."""
    at = urlsplit(url)
    if at.scheme == "http":
        serve_http(handle, at.hostname, at.port or 8080)
    while True:
        try:
            serve_nats(handle, at.hostname, at.port or 4222, at.path.strip("/"))
        except OSError as e:  # NATS is gone, or not there yet
            print("NATS:", e, "- again in a second", flush=True)
            time.sleep(1)


def serve_http(handle, host, port):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = answer(handle, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer((host, port), Handler)
    print("answers on", f"http://{host}:{port}/", flush=True)
    server.serve_forever()


def serve_nats(handle, host, port, subject):
    """A client of NATS as small as it can be. Programs of one subject share the requests: they are in one queue group."""
    with socket.create_connection((host, port)) as s:
        stream = s.makefile("rwb")

        def send(*parts):
            for p in parts:
                stream.write(p)
            stream.flush()

        info = json.loads(stream.readline().split(b" ", 1)[1])
        limit = info["max_payload"]
        send(b'CONNECT {"verbose":false,"lang":"python","version":"1","name":"kisflow example","headers":false}\r\n',
             f"SUB {subject} kisflow 1\r\nPING\r\n".encode())
        while True:
            line = stream.readline()
            if not line:
                raise ConnectionError("the connection was closed")
            verb, _, rest = line.strip().partition(b" ")
            if verb == b"PING":
                send(b"PONG\r\n")
            elif verb == b"PONG":
                print("answers on", f"nats://{host}:{port}/{subject}", flush=True)
            elif verb == b"-ERR":
                raise ConnectionError(rest.decode())
            elif verb == b"MSG":
                words = rest.split()
                payload = stream.read(int(words[-1]) + 2)[:-2]
                if len(words) != 4:
                    continue  # nobody waits for an answer
                body = answer(handle, payload)
                if len(body) > limit:
                    body = json.dumps({"v": 1, "error": f"the answer has {len(body)} bytes, NATS takes {limit}; use a smaller batch"}).encode()
                send(b"PUB %s %d\r\n" % (words[2], len(body)), body, b"\r\n")
