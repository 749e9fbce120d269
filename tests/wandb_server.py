"""As much of a W&B server as it takes to receive runs, online or by `wandb sync`."""

import gzip
import http.server
import json
import re
import threading
from collections.abc import Iterator

import pytest


class Server(http.server.ThreadingHTTPServer):
    """Keeps the history of each run: lines that arrive take their place among those that are there."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.history: dict[str, list[str]] = {}
        """Lines of JSON by the id of their run."""
        self.url = f"http://127.0.0.1:{self.server_port}"

    def updates(self, run: str) -> list[int]:
        """The steps of a run, in the order in which they are kept."""
        return [json.loads(line)["_step"] for line in self.history[run]]

    def answer(self, operation: str, variables: dict) -> dict:
        """What a query or mutation of the GraphQL interface gives: as little as W&B's client is content with."""
        match operation:
            case "RunResumeStatus":
                return {"model": self.resume_status(variables["name"])}
            case "UpsertBucket":
                project = {"id": "project", "name": variables["project"], "entity": {"id": "entity", "name": "someone"}}
                run = {"id": "run", "name": variables["name"], "config": "{}", "project": project}
                return {"upsertBucket": {"bucket": run, "inserted": True}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
                return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        return {}

    def resume_status(self, run: str) -> dict | None:
        lines = self.history.get(run)
        if not lines:
            return None
        counts = {"historyLineCount": len(lines), "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": json.dumps(lines[-1:]), "eventsTail": "[]"}
        values = {"summaryMetrics": "{}", "config": "{}", "wandbConfig": json.dumps({"t": 1}), "tags": []}
        return {"bucket": {"name": run, "displayName": run, **counts, **tails, **values}}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers requests."""

    server: Server
    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def do_POST(self):
        said = json.loads(self.body())
        answer = {}
        if self.path.endswith("/file_stream"):
            if new := said.get("files", {}).get("wandb-history.jsonl"):
                lines = self.server.history.setdefault(self.path.split("/")[-2], [])
                lines[new["offset"] : new["offset"] + len(new["content"])] = new["content"]
        else:
            operation = re.search(r"\b(?:query|mutation)\s+(\w+)", said["query"])
            answer["data"] = self.server.answer(operation[1] if operation else "", said.get("variables") or {})
        self.send(200, json.dumps(answer).encode())

    def do_PUT(self):
        self.body()
        self.send(200)

    def send(self, status: int, content: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture
def wandb_server() -> Iterator[Server]:
    """A server that is up while the test runs."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
