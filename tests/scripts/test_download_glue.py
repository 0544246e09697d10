import errno
import hashlib
import http.server
import io
import random
import socket
import threading
import zipfile

import pytest

from common.errors import InputError
from data.tasks import glue
from scripts import download_glue
from scripts.download_glue import Download, Source

COLA = {
    "CoLA/train.tsv": "gj04\t1\t\tA sentence .\ngj04\t0\t*\tSentence a .\n" + "x" * 300_000,
    "CoLA/dev.tsv": "gj04\t1\t\tAnother one .\n",
    "CoLA/test.tsv": "index\tsentence\n0\tA test .\n",
    "CoLA/original/raw/in_domain_train.tsv": "not read",
    "CoLA/LICENSE.txt": "not read",
}
MRPC_HEADER = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
MRPC_TRAIN = ['1\t11\t12\tHe said " no "\tNo\n', "0\t21\t22\tB\u2028\tb\n", "1\t31\t32\tC\tc\n"]
MRPC = {
    "train.txt": MRPC_HEADER + "".join(MRPC_TRAIN),
    "test.txt": MRPC_HEADER + "1\t41\t42\tD\td\n0\t51\t52\tE\te\n",
    "dev_ids.tsv": "21\t22\n",
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the server's `contents`; closes the connection half-way as often as `cuts` says."""

    def do_GET(self):
        server, start = self.server, 0
        server.requests.append((self.path, self.headers["Range"]))
        if self.path not in server.contents:
            self.send_error(404)
            return
        content = server.contents[self.path]
        if server.ranges and self.headers["Range"]:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        rest = content[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, *args):
        """Nothing on stderr."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download_glue, "SECONDS_BETWEEN_ATTEMPTS", 0)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.contents, server.requests, server.cuts, server.ranges = {}, [], 0, True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def zipped(contents):
    # Stored as they are: what is cut half-way is then cut inside a file.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture
def fetch(server, monkeypatch, tmp_path):
    """Offers `(task, folder, {name: bytes})`, runs the script for the task."""

    def serve(task, folder, contents, known=None):
        sources = []
        for name, content in contents.items():
            server.contents[f"/{name}"] = content
            right = (known or {}).get(name, content)
            sources.append(Source(name, len(right), hashlib.sha256(right).hexdigest()))
        downloads = (Download(task, folder, tuple(sources)),)
        monkeypatch.setattr(download_glue, "DOWNLOADS", downloads)

        def run(port=server.server_port, tasks=(task,)):
            url = f"http://127.0.0.1:{port}/"
            download_glue.main(["--data-dir", str(tmp_path), "--base-url", url, *tasks])

        return run

    return serve


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "finetuning_data"


def load(folder, task, split):
    examples = glue.get_task(task).load(str(folder), split)
    labels = None if examples.labels is None else examples.labels.tolist()
    return examples.texts, examples.text_pairs, labels


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_zip_is_fetched_and_laid_out_once(server, fetch, folder, capsys):
    contents = COLA | {"CoLA/train.tsv": "gj04\t1\t\tA sentence .\ngj04\t0\t*\tSentence a .\n"}
    run = fetch("cola", "CoLA", {"glue/data/CoLA.zip": zipped(contents)})
    run()
    assert names_in(folder / "CoLA") == ["dev.tsv", "test.tsv", "train.tsv"]
    assert load(folder, "cola", "train") == (["A sentence .", "Sentence a ."], None, [1, 0])
    assert load(folder, "cola", "test") == (["A test ."], None, None)
    run()
    assert server.requests == [("/glue/data/CoLA.zip", None)]
    assert capsys.readouterr().out.splitlines() == [
        f"{folder / 'CoLA'}: dev.tsv, test.tsv, train.tsv",
        f"{folder / 'CoLA'}: already there",
    ]


def test_a_full_disk_loses_nothing_that_was_fetched(server, fetch, folder, monkeypatch):
    run = fetch("cola", "CoLA", {"CoLA.zip": zipped(COLA)})

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(download_glue.shutil, "copyfileobj", fail)
        with pytest.raises(InputError, match=r"cannot write .*\.tsv: No space left on device"):
            run()
    assert names_in(folder / "CoLA") == ["CoLA.zip.part"]
    run()
    assert names_in(folder / "CoLA") == ["dev.tsv", "test.tsv", "train.tsv"]
    assert len(server.requests) == 1


def test_files_put_there_by_hand_stay(server, fetch, folder):
    (folder / "cola").mkdir(parents=True)  # the original's name of the folder
    for split in ("train", "dev", "test"):
        (folder / "cola" / f"{split}.tsv").write_text("mine")
    run = fetch("cola", "CoLA", {"CoLA.zip": zipped(COLA)})
    run()
    assert server.requests == []
    (folder / "cola" / "dev.tsv").unlink()
    (folder / "CoLA").mkdir()
    (folder / "CoLA" / "test.tsv").write_text("mine, too")
    run()
    assert (folder / "CoLA" / "test.tsv").read_text() == "mine, too"
    assert (folder / "CoLA" / "dev.tsv").read_text() == COLA["CoLA/dev.tsv"]


def test_mrpc_is_put_together_from_the_corpus_and_the_dev_pairs(fetch, folder):
    fetch("mrpc", "MRPC", {name: text.encode() for name, text in MRPC.items()})()
    assert names_in(folder / "MRPC") == ["dev.tsv", "test.tsv", "train.tsv"]
    assert load(folder, "mrpc", "train") == (['He said " no "', "C"], ["No", "c"], [1, 1])
    assert load(folder, "mrpc", "dev") == (["B\u2028"], ["b"], [0])
    assert load(folder, "mrpc", "test") == (["D", "E"], ["d", "e"], None)
    train = (folder / "MRPC" / "train.tsv").read_bytes().decode()
    assert train == MRPC_HEADER + MRPC_TRAIN[0] + MRPC_TRAIN[2]
    test = (folder / "MRPC" / "test.tsv").read_bytes().decode()
    header = "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    assert test == header + "0\t41\t42\tD\td\n1\t51\t52\tE\te\n"


def test_the_diagnostic_set_gets_the_name_that_is_read(fetch, folder):
    rows = b"index\tsentence1\tsentence2\n0\tThe cat sat.\tA cat sat.\n"
    fetch("mnli", "diagnostic", {"AX.tsv": rows})()
    assert (folder / "diagnostic" / "diagnostic.tsv").read_bytes() == rows
    assert load(folder, "mnli", "diagnostic") == (["The cat sat."], ["A cat sat."], None)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_transfer_is_resumed(server, fetch, folder, ranges):
    archive = zipped(COLA)
    server.cuts, server.ranges = 1, ranges
    fetch("cola", "CoLA", {"CoLA.zip": archive})()
    assert server.requests == [("/CoLA.zip", None), ("/CoLA.zip", f"bytes={len(archive) // 2}-")]
    assert (folder / "CoLA" / "train.tsv").read_text() == COLA["CoLA/train.tsv"]


def test_the_next_call_goes_on_with_what_has_arrived(server, fetch, folder):
    archive = random.Random(0).randbytes(1 << 15) + zipped(COLA)  # a zip may follow other bytes
    server.cuts = download_glue.ATTEMPTS
    run = fetch("cola", "CoLA", {"CoLA.zip": archive})
    with pytest.raises(InputError, match=r"/CoLA\.zip: the transfer was cut 5 times, at last af"):
        run()
    part = folder / "CoLA" / "CoLA.zip.part"
    arrived = part.read_bytes()
    assert len(archive) // 2 < len(arrived) < len(archive)
    assert archive.startswith(arrived)
    run()
    assert server.requests[-1] == ("/CoLA.zip", f"bytes={len(arrived)}-")
    assert names_in(folder / "CoLA") == ["dev.tsv", "test.tsv", "train.tsv"]


def test_another_file_than_the_known_one(server, fetch, folder):
    right, wrong = zipped(COLA), zipped(COLA)[:-1] + b"x"
    run = fetch("cola", "CoLA", {"CoLA.zip": wrong}, {"CoLA.zip": right})
    with pytest.raises(InputError, match="not the file that is known: expected") as caught:
        run()
    for expected in (
        f"http://127.0.0.1:{server.server_port}/CoLA.zip",
        f"{len(right):,} bytes with the SHA-256 {hashlib.sha256(right).hexdigest()}",
        f"got {len(wrong):,} with {hashlib.sha256(wrong).hexdigest()}",
        f"{folder / 'CoLA' / 'CoLA.zip.part'} was removed",
        f"The task's .tsv files, put into {folder / 'CoLA'} by hand, will do, too",
    ):
        assert expected in str(caught.value)
    assert names_in(folder / "CoLA") == []

    run = fetch("cola", "CoLA", {"CoLA.zip": right[:-7]}, {"CoLA.zip": right})
    (folder / "CoLA" / "CoLA.zip.part").write_bytes(right[:-3])  # more than the server has
    message = f"expected {len(right):,} bytes, the server has {len(right) - 7:,}"
    with pytest.raises(InputError, match=message):
        run()
    assert [status for _, status in server.requests[1:]] == [f"bytes={len(right) - 3}-", None]


def test_a_whole_file_of_another_length_costs_nothing_that_has_arrived(server, fetch, folder):
    archive = zipped(COLA)
    run = fetch("cola", "CoLA", {"CoLA.zip": b"please log in"}, {"CoLA.zip": archive})
    server.ranges = False
    (folder / "CoLA").mkdir(parents=True)
    part = folder / "CoLA" / "CoLA.zip.part"
    part.write_bytes(archive[:1000])
    with pytest.raises(InputError, match=f"expected {len(archive):,} bytes, the server has 13"):
        run()
    assert part.read_bytes() == archive[:1000]


def test_one_tasks_failure_stops_no_other(server, fetch, folder, monkeypatch):
    run = fetch("cola", "CoLA", {"CoLA.zip": zipped(COLA)})
    missing = [
        Download(task, name, (Source(f"{task}.zip", 9, ""),))
        for task, name in (("rte", "RTE"), ("wnli", "WNLI"))
    ]
    first, last = missing
    downloads = (first, *download_glue.DOWNLOADS, last)
    monkeypatch.setattr(download_glue, "DOWNLOADS", downloads)
    with pytest.raises(InputError, match=r"/rte\.zip: HTTP 404 .*\n.*/wnli\.zip: HTTP 404 "):
        run(tasks=("all",))
    assert names_in(folder / "CoLA") == ["dev.tsv", "test.tsv", "train.tsv"]
    assert len(server.requests) == 3


def test_mnlis_mismatched_files_belong_to_it(folder):
    (folder / "MNLI").mkdir(parents=True)
    for name in ("train", "dev_matched", "test_matched"):
        (folder / "MNLI" / f"{name}.tsv").write_text("")
    mnli, diagnostic = (each for each in download_glue.DOWNLOADS if each.task == "mnli")
    missing = download_glue.missing_splits
    assert missing(mnli, str(folder)) == ["dev_mismatched", "test_mismatched"]
    assert missing(diagnostic, str(folder)) == ["diagnostic"]


def test_a_missing_file_and_a_missing_server(server, fetch, folder):
    run = fetch("cola", "CoLA", {"CoLA.zip": zipped(COLA)})
    server.contents.clear()
    by_hand = f"The task's .tsv files, put into {folder / 'CoLA'} by hand, will do, too"
    with pytest.raises(InputError, match=r"/CoLA\.zip: HTTP 404 Not Found\. " + by_hand):
        run()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(InputError, match=rf"/CoLA\.zip cannot be reached: .*refused\. {by_hand}"):
        run(port)


@pytest.mark.parametrize("name", ["../outside.tsv", "CoLA/../../outside.tsv", "/outside.tsv"])
def test_an_archive_that_would_leave_its_folder(fetch, folder, tmp_path, name):
    run = fetch("cola", "CoLA", {"CoLA.zip": zipped(COLA | {name: "x"})})
    with pytest.raises(InputError, match=f'"{name}" in the archive would leave its folder'):
        run()
    assert names_in(folder / "CoLA") == ["CoLA.zip.part"]
    assert not list(tmp_path.rglob("outside.tsv"))


def test_an_archive_that_lacks_a_file(fetch, folder):
    run = fetch("cola", "CoLA", {"CoLA.zip": zipped({"CoLA/train.tsv": "x"})})
    with pytest.raises(InputError, match="CoLA: the download has no file for dev, test"):
        run()


def test_every_task_has_known_files():
    assert {download.task for download in download_glue.DOWNLOADS} == set(glue.TASKS)
    sources = [source for download in download_glue.DOWNLOADS for source in download.sources]
    assert len({source.path for source in sources}) == len(sources) == 12
    assert all(len(bytes.fromhex(source.sha256)) == 32 for source in sources)
    assert sum(source.size for source in sources) == 376_169_247
    folders = {download.folder for download in download_glue.DOWNLOADS}
    assert folders == {task.glue_name for task in glue.TASKS.values()} | {"diagnostic"}


def test_unusable_arguments(tmp_path):
    with pytest.raises(InputError, match="unknown task `colla`"):
        download_glue.main(["--data-dir", str(tmp_path), "colla"])
    with pytest.raises(InputError, match=r"the folder .*nowhere does not exist"):
        download_glue.main(["--data-dir", str(tmp_path / "nowhere"), "all"])
    with pytest.raises(InputError, match="--base-url: expected http://… or https://…, got mirror"):
        download_glue.main(["--data-dir", str(tmp_path), "--base-url", "mirror.org", "all"])
