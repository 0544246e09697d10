"""A local server that answers like the Hugging Face hub."""

import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Hub(http.server.ThreadingHTTPServer):
    """The server.

    Attributes:
        files: name of a repository → branch or tag → path → content.
        gated: names of repositories that need a license to be accepted.
        requests: (method, path, Range header or None) of all requests.
        cut_after: number of bytes after which the next download breaks off, or None.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url, self.cut_after = f"http://127.0.0.1:{self.server_port}", None
        self.files, self.gated, self.requests = {}, set(), []

    def downloads(self):
        """The names of the files whose content was sent."""
        sent = [path for method, path, _ in self.requests if method == "GET"]
        return [path.split("/")[-1] for path in sent if "/resolve/" in path]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.server, urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Range")))
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name, (verb, revision, *file) = "/".join(parts[:2]), (*parts[2:], "revision", "main")[:3]
        branch = {commit: branch for branch, commit in COMMITS.items()}.get(revision, revision)
        if name in hub.gated and verb == "resolve":
            return self.fail(403, "GatedRepo")
        if name not in hub.files:
            return self.fail(404, "RepoNotFound")
        if branch not in hub.files[name]:
            return self.fail(404, "RevisionNotFound")
        files, commit = hub.files[name][branch], COMMITS[branch]
        if verb == "revision":
            siblings = [{"rfilename": path} for path in files]
            return self.send({"id": name, "sha": commit, "siblings": siblings})
        if verb == "tree":
            sizes = [{"path": path, "size": len(content)} for path, content in files.items()]
            return self.send([s | {"type": "file", "oid": etag(files[s["path"]])} for s in sizes])
        if file[0] not in files:
            return self.fail(404, "EntryNotFound")
        return self.send_file(files[file[0]], commit)

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
        cut_after = self.server.cut_after
        if cut_after is not None and len(body) > cut_after:
            body, self.server.cut_after, self.close_connection = body[:cut_after], None, True
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)


def etag(content):
    """Git's hash of a file, which the hub uses."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def serve(server=None):
    """Runs a server in a thread; the default is a `Hub` without repositories."""
    with server or Hub() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()
