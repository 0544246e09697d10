"""A store in memory; an S3 server on this machine, and a proxy before it that cuts connections."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from common import remote, remote_cache

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


# Has many files in a bucket from the start, which would take a minute to send.
SERVER = """
from moto.s3.models import s3_backends
from moto.server import main

store = s3_backends["123456789012"]["aws"]
store.create_bucket("many", "us-east-1")
for number in range(10_000):
    store.put_object("many", f"texts/{number:05d}.txt", b"x")
main()
"""


@contextlib.contextmanager
def s3_server():
    """Runs moto's server as a process; yields its address.

    The bucket "many" has texts/00000.txt to texts/09999.txt.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", SERVER, "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while True:
                try:
                    require_valid_keys(url, False)
                    break
                except OSError:
                    assert server.poll() is None, "moto's server ended"
                    time.sleep(0.1)
            yield url
        finally:
            server.terminate()


def call(url, data=b""):
    """Posts to moto's own interface."""
    headers = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(url, data, headers, method="POST")).close()


def require_valid_keys(url, is_required):
    """Has the server check who asks, from now on, or not."""
    call(f"{url}/moto-api/reset-auth", b"0" if is_required else b"1000000000")


class Proxy:
    """Passes connections on to a server, counts requests, and cuts long answers.

    `cut_after` is the bytes of an answer after which a connection is cut, and `cuts` how many will
    be; `lines` are the first lines of all requests.
    """

    def __init__(self, url):
        self._port = int(url.rpartition(":")[2])
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.cut_after, self.cuts, self.lines = None, 0, []

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.close()

    def _accept(self):
        with contextlib.suppress(OSError):  # it was closed
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                for pair in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source, target, is_request):
        count = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 14):
                first = data.split(b"\r\n", 1)[0]
                if is_request and first.endswith(b"HTTP/1.1"):
                    self.lines.append(first.decode())
                count += len(data)
                if not is_request and self.cuts and count > self.cut_after:
                    self.cuts -= 1
                    break
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def memory_store(monkeypatch, tmp_path):
    """An empty store in memory, and an empty cache; returns the store's file system."""
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    monkeypatch.setattr(remote, "DELAYS", (0, 0))
    monkeypatch.setenv("CONVBERT_CACHE", str(tmp_path / "cache"))
    remote_cache.local.cache_clear()
    return fsspec.filesystem("memory")
