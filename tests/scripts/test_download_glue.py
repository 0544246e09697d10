import errno
import hashlib
import http.server
import io
import socket
import zipfile

import pytest

from common.errors import InputError
from common.lock import locked
from data.tasks import glue
from scripts import download_glue
from scripts.download_glue import Download, RemoteFile
from tests.support import hub_server
from tests.support.files import write

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
    """Serves the server's `contents`; closes the connection halfway through the first `cuts`.

    With another `status` than 200, that is the answer.
    """

    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        status = server.status if self.path in server.contents else 404
        if status != 200:
            self.send_error(status)
            return
        content = server.contents[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            content = content[: len(content) // 2]
        self.wfile.write(content)

    def log_message(self, *args):
        """Nothing on stderr."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download_glue, "SECONDS_BETWEEN_ATTEMPTS", 0)
    with hub_server.serve(http.server.HTTPServer(("127.0.0.1", 0), Handler)) as server:
        server.contents, server.requests, server.cuts, server.status = {}, [], 0, 200
        yield server


def zipped(contents):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture
def serve(server, monkeypatch, tmp_path):
    """Serves `(task, folder, {name: bytes})`; returns a function that downloads the task."""

    def serve(task, folder, contents, expected=None):
        remote_files = []
        for name, content in contents.items():
            server.contents[f"/{name}"] = content
            right = expected or content
            remote_files.append(RemoteFile(name, len(right), hashlib.sha256(right).hexdigest()))
        downloads = [Download(task, folder, tuple(remote_files))]
        monkeypatch.setattr(download_glue, "read_downloads", lambda path: downloads)

        def run(port=server.server_port, tasks=(task,)):
            url = f"http://127.0.0.1:{port}/"
            download_glue.main(["--data-dir", str(tmp_path), "--base-url", url, *tasks])

        run.downloads = downloads
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
    return sorted(path.name for path in folder.glob("*"))


def test_a_zip_is_downloaded_once(server, serve, folder, capsys):
    contents = COLA | {"CoLA/train.tsv": "gj04\t1\t\tA sentence .\ngj04\t0\t*\tSentence a .\n"}
    run = serve("cola", "CoLA", {"glue/data/CoLA.zip": zipped(contents)})
    run()
    assert names_in(folder) == ["CoLA"]
    assert names_in(folder / "CoLA") == ["dev.tsv", "test.tsv", "train.tsv"]
    assert load(folder, "cola", "train") == (["A sentence .", "Sentence a ."], None, [1, 0])
    assert load(folder, "cola", "test") == (["A test ."], None, None)
    run()
    assert server.requests == ["/glue/data/CoLA.zip"]
    assert capsys.readouterr().out.splitlines() == [
        f"{folder / 'CoLA'}: dev.tsv, test.tsv, train.tsv",
        f"{folder / 'CoLA'}: already there",
    ]


def test_a_full_disk_leaves_nothing_partial(serve, folder, monkeypatch):
    run = serve("cola", "CoLA", {"CoLA.zip": zipped(COLA)})

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(download_glue.shutil, "copyfileobj", fail)
        with pytest.raises(InputError, match=r"CoLA/dev\.tsv: No space left on device"):
            run()
    assert not list(folder.rglob("*.*"))
    run()
    assert names_in(folder / "CoLA") == ["dev.tsv", "test.tsv", "train.tsv"]


def test_existing_files_are_kept(server, serve, folder):
    for split in ("train", "dev", "test"):
        write(folder / "cola" / f"{split}.tsv", "mine")  # the original's name of the folder
    run = serve("cola", "CoLA", {"CoLA.zip": zipped(COLA)})
    run()
    assert server.requests == []
    (folder / "cola" / "dev.tsv").unlink()
    write(folder / "CoLA" / "test.tsv", "mine, too")
    run()
    assert (folder / "CoLA" / "test.tsv").read_text() == "mine, too"
    assert (folder / "CoLA" / "dev.tsv").read_text() == COLA["CoLA/dev.tsv"]


def test_one_download_at_a_time(server, serve, folder):
    run = serve("cola", "CoLA", {"CoLA.zip": zipped(COLA)})
    with locked(folder / "CoLA" / ".download.lock", "the folder", ""):
        with pytest.raises(InputError, match=f"{folder / 'CoLA'} is in use"):
            run()
        assert server.requests == []
    run()
    assert names_in(folder / "CoLA") == ["dev.tsv", "test.tsv", "train.tsv"]


def test_mrpc_is_made_from_the_corpus_and_the_dev_pairs(serve, folder):
    serve("mrpc", "MRPC", {name: text.encode() for name, text in MRPC.items()})()
    assert names_in(folder / "MRPC") == ["dev.tsv", "test.tsv", "train.tsv"]
    assert load(folder, "mrpc", "train") == (['He said " no "', "C"], ["No", "c"], [1, 1])
    assert load(folder, "mrpc", "dev") == (["B\u2028"], ["b"], [0])
    assert load(folder, "mrpc", "test") == (["D", "E"], ["d", "e"], None)
    train = (folder / "MRPC" / "train.tsv").read_bytes().decode()
    assert train == MRPC_HEADER + MRPC_TRAIN[0] + MRPC_TRAIN[2]
    test = (folder / "MRPC" / "test.tsv").read_bytes().decode()
    header = "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    assert test == header + "0\t41\t42\tD\td\n1\t51\t52\tE\te\n"


def test_the_diagnostic_set_gets_the_name_that_is_read(serve, folder):
    rows = b"index\tsentence1\tsentence2\n0\tThe cat sat.\tA cat sat.\n"
    serve("mnli", "diagnostic", {"AX.tsv": rows})()
    assert (folder / "diagnostic" / "diagnostic.tsv").read_bytes() == rows
    assert load(folder, "mnli", "diagnostic") == (["The cat sat."], ["A cat sat."], None)


def test_a_cut_transfer_is_repeated(server, serve, folder):
    server.cuts = download_glue.ATTEMPTS - 1
    serve("cola", "CoLA", {"CoLA.zip": zipped(COLA)})()
    assert server.requests == ["/CoLA.zip"] * download_glue.ATTEMPTS
    assert (folder / "CoLA" / "train.tsv").read_text() == COLA["CoLA/train.tsv"]


@pytest.mark.parametrize(
    ("cuts", "status", "num_requests", "message"),
    [
        (5, 200, 5, r"5 attempts failed.*closed after \d+,\d+ "),
        (0, 503, 5, "5 attempts failed.*HTTP 503"),
        (0, 404, 1, "HTTP 404 .*finetuning_data/CoLA"),
    ],
)
def test_a_server_that_fails(server, serve, folder, cuts, status, num_requests, message):
    server.cuts, server.status = cuts, status
    with pytest.raises(InputError, match=rf"/CoLA\.zip: {message}"):
        serve("cola", "CoLA", {"CoLA.zip": zipped(COLA)})()
    assert len(server.requests) == num_requests
    assert names_in(folder) == []


@pytest.mark.parametrize("change", [b"x", b"", b"xyz"])
def test_another_file_than_expected(server, serve, folder, change):
    right, wrong = zipped(COLA), zipped(COLA)[:-1] + change
    run = serve("cola", "CoLA", {"CoLA.zip": wrong}, expected=right)
    with pytest.raises(InputError) as caught:
        run()
    for expected in (
        f"http://127.0.0.1:{server.server_port}/CoLA.zip",
        f"{len(right):,} bytes with the SHA-256 {hashlib.sha256(right).hexdigest()}",
        f"got {len(wrong):,} with {hashlib.sha256(wrong).hexdigest()}",
        str(folder / "CoLA"),
    ):
        assert expected in str(caught.value)
    assert names_in(folder) == []


def test_a_failing_task_does_not_stop_the_others(server, serve, folder):
    run = serve("cola", "CoLA", {"CoLA.zip": zipped(COLA)})
    run.downloads.insert(0, Download("rte", "RTE", (RemoteFile("rte.zip", 9, ""),)))
    run.downloads.append(Download("wnli", "WNLI", (RemoteFile("wnli.zip", 9, ""),)))
    with pytest.raises(InputError, match=r"/rte\.zip: HTTP 404 .*\n.*/wnli\.zip: HTTP 404 "):
        run(tasks=("all",))
    assert names_in(folder / "CoLA") == ["dev.tsv", "test.tsv", "train.tsv"]
    assert len(server.requests) == 3


def test_mnli_needs_its_mismatched_files(folder):
    for name in ("train", "dev_matched", "test_matched"):
        write(folder / "MNLI" / f"{name}.tsv", "")
    downloads = download_glue.read_downloads(download_glue.FILES)
    mnli, diagnostic = (each for each in downloads if each.task == "mnli")
    missing = download_glue.missing_splits
    assert missing(mnli, str(folder)) == ["dev_mismatched", "test_mismatched"]
    assert missing(diagnostic, str(folder)) == ["diagnostic"]


def test_a_missing_server(serve, folder):
    run = serve("cola", "CoLA", {"CoLA.zip": zipped(COLA)})
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(InputError, match=rf"/CoLA\.zip: .*refused.*{folder / 'CoLA'}"):
        run(port)


OUTSIDE = ("../outside.tsv", "CoLA/../../outside.tsv", "/outside.tsv")


@pytest.mark.parametrize(
    ("contents", "message", "names"),
    [
        ({"CoLA/train.tsv": "x"}, "CoLA: .* dev, test", ["CoLA"]),
        *((COLA | {name: "x"}, r"CoLA\.zip: .*outside\.tsv", []) for name in OUTSIDE),
    ],
)
def test_an_archive_that_lacks_a_file_or_would_leave_its_folder(
    serve, folder, tmp_path, contents, message, names
):
    with pytest.raises(InputError, match=message):
        serve("cola", "CoLA", {"CoLA.zip": zipped(contents)})()
    assert names_in(folder) == names
    assert not list(tmp_path.rglob("outside.tsv"))


def test_every_task_has_known_files():
    downloads = download_glue.read_downloads(download_glue.FILES)
    assert {download.task for download in downloads} == set(glue.TASKS)
    remote_files = [each for download in downloads for each in download.remote_files]
    assert len({each.path for each in remote_files}) == len(remote_files) == 12
    assert all(len(bytes.fromhex(each.sha256)) == 32 for each in remote_files)
    assert sum(each.size for each in remote_files) == 376_169_247
    folders = {download.folder for download in downloads}
    assert folders == {task.glue_name for task in glue.TASKS.values()} | {"diagnostic"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data-dir", ".", "colla"], "`colla`"),
        (["--data-dir", "nowhere", "all"], "--data-dir: nowhere "),
        (["--data-dir", ".", "--base-url", "mirror.org", "all"], "--base-url: .* got mirror.org"),
    ],
)
def test_wrong_arguments(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        download_glue.main(arguments)
