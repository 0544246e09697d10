"""Who may import whom, read from the source; and that `--help` loads nothing heavy."""

import ast
import graphlib
import subprocess
import sys

import pytest

from tests.support.processes import ROOT, run_python

ENTRY_SCRIPTS = ("build_data", "pretrain", "finetune")
# A module imports only from lower ranks, and from its own package.
RANKS = {
    "common": 0,
    "data": 1,
    "model": 1,
    "configure_pretraining": 2,
    "configure_finetuning": 2,
    "pipelines": 3,
    "jobs": 3,
    "serving": 4,
    "benchmarks": 5,
    **dict.fromkeys(ENTRY_SCRIPTS, 5),
    "scripts": 6,
}
# Inside a package, likewise: the longest name that a module's begins with decides.
INNER_RANKS = {
    "data.corpus": 0,
    "data.tensorflow_setup": 0,
    "data.tokenizer": 1,
    "data.records": 2,
    "data.tasks": 2,
    "model.config": 0,
    "model.backends": 1,
    "model.layers": 2,
    "model.losses": 2,
    "model.weights": 3,
    "model.convbert": 4,
    "model.heads": 5,
    "model.masking": 5,
    "model.pretraining": 6,
    "model.joint": 6,
    "model.adaptation": 3,
    "model.predictor": 4,
    "model.training": 7,
}
HEAVY = {"tensorflow", "tensorflow_text", "keras", "jax", "torch", "matplotlib", "optuna"}
BACKENDS = {"tensorflow", "tensorflow_text", "jax", "torch"}
HELPERS_OF_SCRIPTS = {"scripts.__init__", "scripts.bootstrap"}


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def find_modules():
    folders = [ROOT / name for name in RANKS if (ROOT / name).is_dir()]
    paths = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    return {name_of(path): path for path in sorted(paths)}


MODULES = find_modules()


def imported_names(source):
    """Dotted names of all that a module imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def as_module(name):
    """The project's module that an imported name is, or is in; None for other libraries."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        for candidate in (prefix, f"{prefix}.__init__"):
            if candidate in MODULES:
                return candidate
    return None


def imports_of(module):
    """The project's modules that a module imports, and the other libraries."""
    names = set(imported_names(MODULES[module].read_text(encoding="utf-8")))
    own = {as_module(name) for name in names} - {None, module}
    return own, {name.split(".")[0] for name in names if as_module(name) is None}


def inner_rank(module):
    found = [name for name in INNER_RANKS if f"{module}.".startswith(f"{name}.")]
    return INNER_RANKS[max(found, key=len)] if found else None


def test_names_are_found():
    source = "import a.x\nfrom model import config\ndef f():\n    from common.errors import Error\n"
    names = set(imported_names(source))
    assert names == {"a.x", "model.config", "common.errors.Error"}
    assert {as_module(name) for name in names} == {None, "model.config", "common.errors"}
    assert len(MODULES) > 100


def test_every_folder_and_module_has_a_rank():
    assert {name.split(".")[0] for name in MODULES} == set(RANKS)
    for name in MODULES:
        if name.split(".")[0] in ("data", "model") and name.count("."):
            assert inner_rank(name) is not None or name.endswith("__init__"), name


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    own, others = imports_of(module)
    package = module.split(".")[0]
    for name in own:
        other = name.split(".")[0]
        if other != package:
            assert RANKS[other] < RANKS[package], name
        elif None not in (inner_rank(module), inner_rank(name)):
            assert inner_rank(name) <= inner_rank(module), name
        elif package == "scripts":
            assert name in HELPERS_OF_SCRIPTS, name
    if package.startswith("configure_"):
        assert all(name.startswith("common.") or name == "model.config" for name in own)
    if package == "common" or package.startswith("configure_") or module == "model.config":
        assert others & HEAVY == set()
    if package in ("model", "pipelines") and not module.startswith("model.backends."):
        assert others & BACKENDS == set()


def test_a_script_says_which_packages_are_missing():
    command = [sys.executable, "-S", str(ROOT / "scripts" / "plot_run.py"), "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and "requirements.txt" in done.stderr


def test_there_is_no_circle():
    tuple(graphlib.TopologicalSorter({m: imports_of(m)[0] for m in MODULES}).static_order())


COMMANDS = [
    path
    for path in [*(ROOT / f"{name}.py" for name in ENTRY_SCRIPTS), *ROOT.glob("scripts/*.py")]
    if "errors.run(main)" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_help_imports_nothing_heavy(path, tmp_path):
    """From another folder, as a file."""
    done = run_python("-X", "importtime", path, "--help", cwd=tmp_path, timeout=60)
    assert "usage: " in done.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    slow = HEAVY | {"huggingface_hub", "numpy", "tqdm"}
    assert imported & slow == set()
