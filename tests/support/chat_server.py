"""A small OpenAI-compatible server for tests, which answers as it is told to."""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def reply(*tokens, finish_reason="stop", usage=None, **message):
    """Return a chat completion whose tokens are `(text, {alternative: logprob})`, with more fields of its message."""
    content = [
        {"token": text, "logprob": 0.0, "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}
        for text, top in tokens
    ]
    message = {"role": "assistant", "content": "".join(text for text, _ in tokens), **message}
    choice = {"message": message, "logprobs": {"content": content}, "finish_reason": finish_reason}
    return 200, json.dumps({"choices": [choice]} | ({"usage": usage} if usage else {})), {}


def refusal(status, message, **fields):
    """Return an error as OpenAI's servers send it."""
    return status, json.dumps({"error": {"message": message, **fields}}), {}


@contextmanager
def chat_server(answer: Callable[[dict, int], tuple[int, str, dict]]):
    """Yield the base URL and the list of requests; `answer` gets a request and its number."""
    requests, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request["authorization"] = self.headers["Authorization"]
            with lock:
                requests.append(request)
                number = len(requests)
            status, body, headers = answer(request, number)
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64  # a client asks many things at a time

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
