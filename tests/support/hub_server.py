"""A local server that answers like the Hugging Face hub."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse
from pathlib import PurePosixPath

from huggingface_hub import constants

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Hub(http.server.ThreadingHTTPServer):
    """The server.

    Attributes:
        files: name of a repository → branch or tag → path → content. The names of data sets begin
            with "datasets/".
        commits: branch or tag → hash; the same for all repositories.
        gated: names of repositories that need a license to be accepted.
        private: names of repositories that need a token.
        has_large_files: whether weights are sent to Git's large file storage.
        large: SHA-256 → content of files in Git's large file storage that no commit has named yet.
        requests: (method, path, Range header or None) of all requests.
        cut_after: number of bytes after which the next download breaks off, or None.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url, self.cut_after = f"http://127.0.0.1:{self.server_port}", None
        self.files, self.gated, self.requests = {}, set(), []
        self.commits, self.private, self.large = dict(COMMITS), set(), {}
        self.has_large_files = False

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
        hub, path = self.server, self.begin()
        name, (verb, revision, *file) = split(path)
        branch = self.branch(revision)
        if name in hub.gated and verb == "resolve":
            return self.fail(403, "GatedRepo")
        if name not in hub.files or (name in hub.private and not self.has_token()):
            return self.fail(404, "RepoNotFound")
        if branch not in hub.files[name]:
            return self.fail(404, "RevisionNotFound")
        files, commit = hub.files[name][branch], hub.commits[branch]
        if verb == "revision":
            siblings = [{"rfilename": path} for path in files]
            return self.send(
                {"id": name, "sha": commit, "siblings": siblings, "private": name in hub.private}
            )
        if verb == "tree":
            return self.send_tree(files, *file)
        if file[0] not in files:
            return self.fail(404, "EntryNotFound")
        return self.send_file(files[file[0]], commit)

    def branch(self, revision):
        """The branch or tag that a name or a hash stands for."""
        names = {commit: branch for branch, commit in self.server.commits.items()}
        return names.get(revision, revision)

    def send_tree(self, files, folder=""):
        """The files and folders in a folder; with "recursive", those below it, too."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        prefix = f"{folder}/" if folder else ""
        below = [path for path in files if path.startswith(prefix)]
        found = describe(files, below)
        if query.get("recursive") != ["true"]:
            found = [e for e in found if "/" not in e["path"].removeprefix(prefix)]
        return self.send(found) if below else self.fail(404, "EntryNotFound")

    def begin(self):
        """Notes the request, and returns its path."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        return path

    def has_token(self):
        return self.headers.get("Authorization", "").startswith("Bearer ")

    def do_POST(self):
        """What an upload asks for: a repository, how to send files, and a commit."""
        hub, path, body = self.server, self.begin(), self.body()
        if path == "/api/validate-yaml":
            lines = json.loads(body)["content"].splitlines()
            if "license: none" in lines:
                return self.answer(400, b'"license" must be one of a list', {})
            return self.send({"errors": [], "warnings": []})
        name, (verb, revision, *_) = split(path)
        if verb == "paths-info":
            files, form = (
                hub.files[name][self.branch(revision)],
                urllib.parse.parse_qs(body.decode()),
            )
            return self.send([e for e in describe(files, files) if e["path"] in form["paths"]])
        if not self.has_token():
            return self.fail(401, "")
        if path == "/api/repos/create":
            fields = json.loads(body)
            name = f"{fields['organization']}/{fields['name']}"
            if name in hub.files:
                return self.send({"url": f"{hub.url}/{name}"}, 409)
            hub.files[name] = {"main": {}}
            if fields.get("visibility") == "private" or fields.get("private"):
                hub.private.add(name)
            return self.send({"url": f"{hub.url}/{name}"})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.send(
                {"objects": [self.large_file(each) for each in json.loads(body)["objects"]]}
            )
        if name not in hub.files:
            return self.fail(404, "RepoNotFound")
        if verb == "preupload":
            modes = [self.upload_mode(name, each["path"]) for each in json.loads(body)["files"]]
            return self.send({"files": modes})
        return self.commit(name, [json.loads(line) for line in body.splitlines()])

    def upload_mode(self, name, path):
        mode = "lfs" if path.endswith(".safetensors") and self.server.has_large_files else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False}

    def large_file(self, asked):
        href = f"{self.server.url}/large/{asked['oid']}"
        return asked | {"actions": {"upload": {"href": href}}}

    def do_PUT(self):
        oid, content = self.begin().split("/")[-1], self.body()
        assert oid == hashlib.sha256(content).hexdigest()
        self.server.large[oid] = content
        self.send({})

    def commit(self, name, lines):
        hub, files = self.server, self.server.files[name]["main"]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.large.pop(value["oid"])
        known = repr({path: etag(content) for path, content in files.items()})
        hub.commits["main"] = hashlib.sha1(known.encode()).hexdigest()
        url = f"{hub.url}/{name}/commit/{hub.commits['main']}"
        self.send({"commitUrl": url, "commitOid": hub.commits["main"]})

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send(self, value, status=200):
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

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


def split(path):
    """The repository that a path is about, and what is asked: a verb, a revision and a file.

    The names of data sets begin with "datasets/".
    """
    parts = path.removeprefix("/api").removeprefix("/models").strip("/").split("/")
    count = 3 if parts[0] == "datasets" else 2
    asked = parts[count:] or ["revision"]
    if len(asked) == 1:
        asked += ["main"]
    return "/".join(parts[:count]), asked[:2] + ["/".join(asked[2:])] * (len(asked) > 2)


def describe(files, paths):
    """Files and the folders that they are in, as the hub lists them."""
    folders = {str(above) for path in paths for above in PurePosixPath(path).parents} - {"."}
    found = [{"type": "directory", "path": path, "oid": etag(b""), "size": 0} for path in folders]
    for path in paths:
        oid, size = etag(files[path]), len(files[path])
        found.append({"type": "file", "path": path, "size": size, "oid": oid})
    return sorted(found, key=lambda entry: entry["path"])


def etag(content):
    """Git's hash of a file, which the hub uses."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def connect(monkeypatch, url):
    """Points huggingface_hub, which reads the environment when it is imported, to a server."""
    settings = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": True,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)


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
