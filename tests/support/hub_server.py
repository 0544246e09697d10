"""A server on this machine that answers as the Hugging Face hub does."""

import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Hub:
    """Repositories by name, each with its files by revision.

    Args:
        url: what HF_ENDPOINT must be.
        files: name of a repository → branch or tag → path → content.
        gated: names of repositories that need a license to be accepted.
        requests: (method, path, Range header or None) of all that was asked.
        cut_after: number of bytes after which the next download breaks off; None, of none.
    """

    def __init__(self):
        self.url, self.cut_after = "", None
        self.files, self.gated, self.requests = {}, set(), []

    def downloads(self):
        """The names of the files whose content was sent."""
        sent = [path for method, path, _ in self.requests if method == "GET"]
        return [path.split("/")[-1] for path in sent if "/resolve/" in path]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        api, _, rest = path.partition("/api/models/")
        parts = rest.split("/") if not api else path.strip("/").split("/")
        name, (verb, revision, *file) = "/".join(parts[:2]), (*parts[2:], "revision", "main")[:3]
        if name in self.hub.gated and verb == "resolve":
            return self.fail(403, "GatedRepo")
        if name not in self.hub.files:
            return self.fail(404, "RepoNotFound")
        branches = {COMMITS[branch]: branch for branch in COMMITS}
        branch = branches.get(revision, revision)
        if branch not in self.hub.files[name]:
            return self.fail(404, "RevisionNotFound")
        files = self.hub.files[name][branch]
        if verb == "revision":
            siblings = [{"rfilename": path} for path in files]
            return self.send({"id": name, "sha": COMMITS[branch], "siblings": siblings})
        if verb == "tree":
            sizes = [{"path": path, "size": len(content)} for path, content in files.items()]
            return self.send([s | {"type": "file", "oid": etag(files[s["path"]])} for s in sizes])
        if file[0] not in files:
            return self.fail(404, "EntryNotFound")
        return self.send_file(files[file[0]], COMMITS[branch])

    def send(self, value):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send_file(self, content, commit):
        status, start = 200, 0
        if asked := self.headers.get("Range"):
            status, start = 206, int(asked.removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{etag(content)}"', "X-Repo-Commit": commit}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.answer(status, content[start:], headers)

    def fail(self, status, code):
        self.answer(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": len(body)}).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cut_after is not None and len(body) > self.hub.cut_after:
            body, self.hub.cut_after = body[: self.hub.cut_after], None
            self.close_connection = True
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)


def etag(content):
    """Git's hash of a file, as the hub has it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def serve():
    """Runs a `Hub` without repositories."""
    hub = Hub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
