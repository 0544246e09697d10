"""README.md and docs/: commands, code, links and generated files match the project."""

import contextlib
import functools
import io
import json
import re
import runpy
import shlex
import sys

import pytest

import model as models
from common import errors
from common.fields import override
from configure_finetuning import FinetuningConfig
from configure_pretraining import PretrainingConfig
from data import ConvBertTokenizer
from data.records.command_line import BERT_VOCAB
from data.tasks import registry
from jobs import sweep_space
from model.config import ConvBertConfig
from scripts import export
from tests.support.processes import ROOT
from tests.support.random_models import NETWORK

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?P<not_run><!-- not run: [^\n]+ -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
JOBS = {f"{job}.sh": f"{job}.py" for job in ("build_data", "pretrain", "finetune")}
NO_OPTIONS = ("quickstart.sh", ".ci/run", "test.sh", "-c")  # test.sh passes its own to pytest
OTHER_COMMANDS = ("cp", "mkdir", "export", ".", "pip", "spark-submit")
MODELS = {
    "discriminator": "ConvBertModel",
    "generator": "ConvBertForMaskedLM",
    "finetuning_models/topics_1": "ConvBertForSequenceClassification",
    "finetuning_models/chunk_1": "ConvBertForTokenClassification",
    "finetuning_models/squad_1": "ConvBertForQuestionAnswering",
    "finetuning_models/swag_1": "ConvBertForMultipleChoice",
}
NETWORK_FIELDS = {"num_hidden_layers": 1, "num_labels": 3, "id2label": ("O", "B-NP", "I-NP")}


def blocks(language, pages=PAGES):
    """Page and line, code, and whether it is run, of all fenced blocks of a language."""
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match["language"] == language:
                line = text.count("\n", 0, match.start("code")) + 1
                where = f"{page.relative_to(ROOT)}:{line}"
                yield where, match["code"], not match["not_run"]


def commands(code):
    """The words of each command of a shell block, without variables that are set for it."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ";"]:
            if word in (";", "&&", "|"):
                if words:
                    yield words
                words = []
            elif words or not re.match(r"\w+=", word):
                words.append(word)


SHELL_COMMANDS = [
    pytest.param(words, id=f"{where} {' '.join(words)[:40]}")
    for where, code, _ in blocks("bash")
    for words in commands(code)
]


@functools.cache
def usage(*script):
    """The options of a script, with the choices of those that have some, from its --help."""
    shown, (path, *arguments) = io.StringIO(), script
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        patch.setattr(errors, "run", lambda main: main())
        run, target = runpy.run_path, str(ROOT / path)
        if path == "-m":
            run, target = runpy.run_module, arguments.pop(0)
        patch.setattr(sys, "path", [str((ROOT / path).parent), *sys.path])
        patch.setattr(sys, "argv", [path, *arguments, "--help"])
        with pytest.raises(SystemExit):
            run(target, run_name="__main__")
    text = " ".join(shown.getvalue().split("\n\n")[0].split())
    choices = dict(re.findall(r"(--[\w-]+) \{([^}]+)\}", text))
    return {name: choices.get(name) for name in re.findall(r"(--[\w-]+)", text)}


def script_of(words):
    """The Python file or module that a command runs, and its arguments."""
    if words[0] == "bash":
        return (JOBS.get(words[1], words[1]),), words[2:]
    if words[1] != "-m":
        return (words[1],), words[2:]
    if words[2] == "benchmarks":
        return ("-m", "benchmarks", words[3]), words[4:]
    return ("-m", words[2]), words[3:]


def test_commands_are_found():
    assert len(SHELL_COMMANDS) > 50
    code = "A=1 bash x.sh --a '{\"b\": 1}' && . c  # d\npip install \\\n  'e<1' | f"
    found = [["bash", "x.sh", "--a", '{"b": 1}'], [".", "c"], ["pip", "install", "e<1"], ["f"]]
    assert list(commands(code)) == found


@pytest.mark.parametrize("words", SHELL_COMMANDS)
def test_command(words):
    if words[0].split("/")[-1] in OTHER_COMMANDS:
        return
    assert words[0].split("/")[-1] in ("bash", "python", "python3")
    script, arguments = script_of(words)
    assert words[0] != "bash" or (ROOT / words[1]).is_file()
    if words[1] in NO_OPTIONS:
        return
    options = usage(*script)
    arguments = arguments[: [*arguments, "--"].index("--")]
    for option, value in zip(arguments, [*arguments[1:], ""], strict=False):
        if option.startswith("--"):
            assert option in options
            assert not options[option] or value in options[option].split(",")
        if option == "--space":
            sweep_space.check_space(json.loads(value), option)
        if option == "--hparams" and value.startswith("{"):
            check_hparams(script[-1], arguments, json.loads(value))


def check_hparams(script, arguments, hparams):
    if script == "pretrain.py":
        PretrainingConfig.from_hparams(hparams)
    elif script == "finetune.py":
        tasks = arguments[: arguments.index("--hparams")] or hparams["task_names"]
        assert all(task == "all" or registry.get_task(task) for task in tasks)
        FinetuningConfig.for_tasks(tuple(tasks), hparams)
    else:
        config = FinetuningConfig() if "check_task" in script else ConvBertConfig()
        override(config, hparams)


@pytest.mark.parametrize("code", [pytest.param(b[1], id=b[0]) for b in blocks("json")])
def test_task_description(code, tmp_path):
    (tmp_path / "mine.json").write_text(code)
    assert registry.get_task(str(tmp_path / "mine.json")).name == "mine"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the models that the pages name: random, with BERT's vocabulary."""
    folder = tmp_path_factory.mktemp("docs")
    tokenizer = ConvBertTokenizer(BERT_VOCAB)
    network = NETWORK | NETWORK_FIELDS | {"vocab_size": tokenizer.vocab_size}
    for name, kind in MODELS.items():
        directory = folder / "my_model" / name
        getattr(models, kind)(ConvBertConfig(**network)).save_pretrained(directory)
        tokenizer.save_pretrained(directory, 64)
    source = str(folder / "my_model/finetuning_models/topics_1")
    for name, kind in {"": "savedmodel", "_onnx": "onnx", "_litert": "litert"}.items():
        export.main([source, str(folder / f"exported{name}"), "--format", kind])
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    namespace = {}
    for where, code, is_run in blocks("python", [page]):
        compiled = compile(code, where, "exec")
        if is_run:
            exec(compiled, namespace)


def anchors(page):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text("utf-8"))):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_pages_are_linked_and_readme_is_short():
    linked = set(re.findall(r"docs/(\w+\.md)", README.read_text("utf-8")))
    assert linked == {page.name for page in PAGES[1:]}
    assert len(README.read_text("utf-8").splitlines()) <= 200
    sources = [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/**/*.py")]
    named = {name for path in sources for name in re.findall(r"docs/(\w+\.md)", path.read_text())}
    assert named <= linked


@pytest.mark.parametrize(
    ("script", "function"),
    [("make_architecture_figure", "make_figure"), ("make_hyperparameter_tables", "make_page")],
)
def test_generated_file_is_current(script, function, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    made = runpy.run_path(str(ROOT / "docs" / f"{script}.py"))
    assert made["TARGET"].read_text(encoding="utf-8") == made[function](), f"run docs/{script}.py"
