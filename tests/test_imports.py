"""Who may import whom, read from the source; and that `--help` loads nothing heavy."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ENTRY_SCRIPTS = ("build_data", "pretrain", "finetune")
TOOLS = (
    "scripts/train_vocab",
    "scripts/inspect_data",
    "scripts/plot_run",
    "scripts/predict",
    "scripts/export",
    "scripts/fill_mask",
    "scripts/extract_features",
    "scripts/download_glue",
    "scripts/make_submission",
    "scripts/convert_checkpoint",
    "scripts/compare_transformers",
)
CONFIGURATIONS = ("configure_pretraining", "configure_finetuning")
SHARED = ("common",)
PACKAGES = ("data", "model", "pipelines", "serving", "jobs", "benchmarks", "scripts")
PROJECT = {*ENTRY_SCRIPTS, *CONFIGURATIONS, *SHARED, *PACKAGES}
HEAVY = {"tensorflow", "tensorflow_text", "keras", "jax", "torch", "matplotlib"}


def imported_names(source):
    """Dotted names of all that a module imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(path):
    names = set(imported_names(path.read_text(encoding="utf-8")))
    project = {name for name in names if name.split(".")[0] in PROJECT}
    return project, {name.split(".")[0] for name in names - project}


def outside(names, *allowed):
    """The names that are neither one of `allowed` nor inside one."""
    return {name for name in names if not any(f"{name}.".startswith(f"{a}.") for a in allowed)}


def modules(*patterns):
    paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


def test_imports_are_found():
    source = (
        "import data.x\nfrom model import config\ndef f():\n    from errors import InputError\n"
    )
    assert set(imported_names(source)) == {"data.x", "model.config", "errors.InputError"}
    assert outside({"model.config.A", "model.configuration"}, "model.config") == {
        "model.configuration"
    }


@modules("data/**/*.py")
def test_data_imports_no_model(path):
    project, _ = imports_of(path)
    assert outside(project, "data", *SHARED) == set()


@modules("model/**/*.py")
def test_model_imports_no_data_and_no_backend(path):
    project, others = imports_of(path)
    assert outside(project, "model", *SHARED) == set()
    # Each of these is imported where Keras runs on that backend, and nowhere else.
    own = {"tensorflow_backend": {"tensorflow"}, "jax_backend": {"jax"}}.get(path.stem, set())
    assert others & {"tensorflow", "tensorflow_text", "jax", "torch"} <= own


@modules("pipelines/**/*.py")
def test_text_in_answers_out_joins_data_and_model(path):
    project, others = imports_of(path)
    allowed = ("data", "model", "pipelines", "configure_finetuning", *SHARED)
    assert outside(project, *allowed) == set()
    assert others & {"tensorflow", "tensorflow_text", "jax", "torch"} == set()


@modules("configure_*.py")
def test_configurations_import_the_models_configuration_alone(path):
    project, others = imports_of(path)
    assert outside(project, "model.config", *SHARED) == set()
    assert others & HEAVY == set()


@modules("*.py", *(f"{folder}/**/*.py" for folder in PACKAGES))
def test_nothing_imports_an_entry_script(path):
    project, _ = imports_of(path)
    assert {name for name in project if name.split(".")[0] in ENTRY_SCRIPTS} == set()


@modules("common/**/*.py")
def test_shared_modules_stand_alone(path):
    project, others = imports_of(path)
    assert outside(project, *SHARED) == set()
    assert others & HEAVY == set()


@pytest.mark.parametrize("script", (*ENTRY_SCRIPTS, *TOOLS))
def test_help_imports_nothing_heavy(script, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / f"{script}.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "usage: " in done.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert imported & (HEAVY | {"huggingface_hub"}) == set()
