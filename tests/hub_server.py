"""A small hub on loopback: what the real clients of the Hugging Face hub and of ModelScope ask for, and mishaps on request.

    with Hub() as hub:
        hub.add("owner/name", {"model.bin": b"…"})
        hub.cut["model.bin"] = [1000]        # the first answer breaks off after 1000 bytes
"""

import hashlib
import json
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "c0ffee" * 6 + "c0de"
PIECE = 20_000  # bytes sent at once
LARGE = 1000  # bytes; from here on a file is stored as git-lfs does, and its SHA-256 is published


class Hub:
    """Repositories by (kind, name), each a dict of path -> content; counters of what was asked and served, by path."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], dict[str, bytes]] = {}
        self.cut: dict[str, list[int]] = {}  # path -> after how many bytes the next answers break off
        self.damaged: set[str] = set()  # one byte differs from what is published
        self.silent_on_checksums = False
        self.refusing: tuple[int, str] | None = None  # status and error code of every answer
        self.seconds_a_piece = 0.0  # between two pieces of 20 000 bytes
        self.full_answers_only = False
        self.served: dict[str, int] = defaultdict(int)  # bytes of content, by path
        self.ranges: dict[str, list[str]] = defaultdict(list)  # Range of each GET ("" without), by path
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True

    def add(self, name: str, files: dict[str, bytes], kind: str = "model") -> None:
        self.repositories.setdefault((kind, name), {}).update(files)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer()

    def answer(self, head: bool = False) -> None:
        if self.hub.refusing:
            status, code = self.hub.refusing
            return self.send_json({"error": code}, status, **{"X-Error-Code": code} if code else {})
        url = urlparse(self.path)
        words, query = [unquote(word) for word in url.path.strip("/").split("/")], parse_qs(url.query)
        if words[:2] == ["api", "v1"]:
            return self.modelscope(words[2:], query)
        if words[0] == "api":
            return self.api(words[1:])
        stored = words[0] == "stored"  # the second address, to which large files are redirected
        words = words[1:] if stored else words
        kind = "model"
        if words[0] == "datasets":
            kind, words = "dataset", words[1:]
        repository = self.hub.repositories.get((kind, "/".join(words[:2])))
        if repository is None:
            return self.refuse("RepoNotFound")
        path = "/".join(words[4:])  # owner, name, "resolve", revision, path
        if path not in repository:
            return self.refuse("EntryNotFound")
        if len(repository[path]) >= LARGE and not stored:
            return self.redirect(path, repository[path])
        self.send_file(path, repository[path], head)

    def redirect(self, path: str, content: bytes) -> None:
        """As the real hub does with large files: size and SHA-256 stand beside the second address."""
        checksum = "an-etag" if self.hub.silent_on_checksums else hashlib.sha256(content).hexdigest()
        self.send_response(302)
        for name, value in {"X-Repo-Commit": COMMIT, "X-Linked-Size": len(content), "X-Linked-ETag": f'"{checksum}"', "Content-Length": 0,
                            "ETag": '"of-the-redirect"', "Location": f"{self.hub.address}/stored{self.path}"}.items():  # fmt: skip
            self.send_header(name, str(value))
        self.end_headers()

    def api(self, words: list[str]) -> None:
        """/api/datasets/owner/name[/revision/main | /tree/main]"""
        repository = self.hub.repositories.get((words[0].rstrip("s"), "/".join(words[1:3])))
        if repository is None:
            return self.refuse("RepoNotFound")
        if words[3:4] == ["tree"]:
            return self.send_json([{"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
                                   for path, content in repository.items()])  # fmt: skip
        self.send_json({"id": "/".join(words[1:3]), "sha": COMMIT, "siblings": []})

    def modelscope(self, words: list[str], query: dict) -> None:
        """/api/v1/models/owner/name/repo/files, /api/v1/datasets/owner/name/repo/tree, …/repo?FilePath=…"""
        repository = self.hub.repositories.get((words[0].rstrip("s"), "/".join(words[1:3])))
        if repository is None:
            return self.refuse("RepoNotFound")
        if words[-1] in ("files", "tree"):
            files = [self.listed(path, content) for path, content in repository.items()]
            return self.send_json({"Code": 200, "Success": True, "Data": {"Files": files}})
        path = query["FilePath"][0]
        if path not in repository:
            return self.refuse("EntryNotFound")
        self.send_file(path, repository[path], False)

    def listed(self, path: str, content: bytes) -> dict:
        checksum = {} if self.hub.silent_on_checksums else {"Sha256": hashlib.sha256(content).hexdigest()}
        return {"Path": path, "Name": path, "Size": len(content), "Type": "blob", "Revision": COMMIT} | checksum

    def send_file(self, path: str, content: bytes, head: bool) -> None:
        large, total = len(content) >= LARGE, len(content)
        checksum = hashlib.sha256(content).hexdigest() if large else git_hash(content)
        etag = "an-etag" if self.hub.silent_on_checksums else checksum
        if path in self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        wanted = "" if head else self.headers.get("Range", "")
        start, end = 0, total - 1
        if wanted and not self.hub.full_answers_only:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last or end), end)
        self.send_response(206 if wanted and not self.hub.full_answers_only else 200)
        for name, value in {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes", "Content-Length": end - start + 1,
                            "Content-Range": f"bytes {start}-{end}/{total}" if wanted else None}.items():  # fmt: skip
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        if not head:
            self.hub.ranges[path].append(wanted)
            self.send_body(path, content[start : end + 1])

    def send_body(self, path: str, body: bytes) -> None:
        cuts = self.hub.cut.get(path)
        if cuts:
            body, self.close_connection = body[: cuts.pop(0)], True
        for piece in (body[start : start + PIECE] for start in range(0, len(body), PIECE)):
            self.hub.served[path] += len(piece)
            try:
                self.wfile.write(piece)
            except ConnectionError:  # whoever asked has gone
                self.close_connection = True
                return
            time.sleep(self.hub.seconds_a_piece)

    def send_json(self, answer: object, status: int = 200, **headers: str) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code: str) -> None:
        self.send_json({"error": code, "Code": 404, "Success": False, "Message": "not found"}, 404, **{"X-Error-Code": code})


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
