"""A small server that takes commits as the Hugging Face hub does, for tests of publishing."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def hub_server(refusal: tuple[int, str] | None = None):
    """Yield the address, and what was created and committed: `{"repositories": [...], "files": {name: bytes}}`.

    Args:
        refusal: Status and message of every answer, in place of taking a commit.
    """
    taken: dict = {"repositories": [], "files": {}, "authorization": set()}

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, content, status=200):
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            taken["authorization"].add(self.headers["Authorization"])
            if refusal is not None:
                self._answer({"error": refusal[1]}, refusal[0])
            elif self.path.endswith("/repos/create"):
                taken["repositories"].append(json.loads(body))
                self._answer({"url": "https://huggingface.co/owner/model"})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
                self._answer({"files": modes})
            elif "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        taken["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self._answer(
                    {"commitUrl": "https://huggingface.co/owner/model/commit/abc", "commitOid": "abc", "success": True}
                )
            else:
                self._answer({})

        def do_GET(self):
            self._answer({"id": "owner/model", "sha": "abc", "siblings": []})

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", taken
    finally:
        server.shutdown()
        server.server_close()
