import json
import os
import shutil
import sys

import numpy as np
import pytest
import safetensors.numpy

import pretrain
from common.errors import InputError
from data.records import batches
from data.records.metadata import hold_out, load_metadata
from tests.support import corpora, pretraining, processes
from tests.support.pretraining import SCORES

pytestmark = pytest.mark.usefixtures("eager")
HPARAMS = {
    "iterations_per_loop": 3,
    "save_checkpoints_steps": 2,
    "eval_batch_size": 4,
    "num_eval_steps": 3,
}


def several_runs():
    """Compiled, and on the CPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    for arguments in sys.argv[1:]:
        pretrain.main(json.loads(arguments))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Records of four shards."""
    return pretraining.build_data_dir(tmp_path_factory.mktemp("data"), num_archives=4)


def run(data_dir, name, **hparams):
    return pretraining.run(data_dir, name, **(HPARAMS | hparams))


def log_lines(run_dir):
    """The log's lines of training, and those of evaluations."""
    lines = pretraining.log_lines(run_dir)
    return [[line for line in lines if name in line] for name in ("loss", "eval_loss")]


def test_evaluations_do_not_change_training_bit_for_bit(data_dir):
    scored = {"eval_every": 2, "eval_tfrecords": str(data_dir / "pretrain_tfrecords")}
    # A new process: on several threads, sums would differ in their last bits. One network is
    # enough, and traced faster.
    common = HPARAMS | {"deterministic": True, "uniform_generator": True}
    runs = {"plain": common, "scored": common | scored}
    commands = [json.dumps(pretraining.arguments(data_dir, name, **runs[name])) for name in runs]
    processes.finish(processes.start(several_runs, commands))
    plain, with_scores = (data_dir / "models" / name for name in runs)
    state, other = (
        safetensors.numpy.load_file(path / "checkpoints" / "step_5" / "state.safetensors")
        for path in (plain, with_scores)
    )
    assert state.keys() == other.keys()
    differing = {name for name, array in state.items() if (array != other[name]).any()}
    assert {name.rpartition("/")[0].split("/")[2] for name in differing} == {"eval_random"}
    (before, none), (after, evaluations) = log_lines(plain), log_lines(with_scores)
    assert none == [] and [line["step"] for line in before] == [1, 3, 5]
    for line in before + after:
        for measured in ("tokens_per_second", "seconds", "peak_memory_mb"):
            del line[measured]
    assert before == after
    assert [line["step"] for line in evaluations] == [2, 4, 5]
    for line in evaluations:
        assert line.keys() == {"step", "eval_seconds", *(f"eval_{name}" for name in SCORES)}
        assert np.isfinite(list(line.values())).all()


@pytest.fixture(scope="module")
def held_out(data_dir):
    """A run with its last shard held out, and the names of the shards that it read."""
    read = {}

    def noted(name):
        function = getattr(batches, name)

        def note(metadata, *arguments):
            read.setdefault(name, {shard.name for shard in metadata.shards})
            return function(metadata, *arguments)

        return note

    with pytest.MonkeyPatch.context() as patch:
        for name in ("training_batches", "evaluation_batches"):
            patch.setattr(batches, name, noted(name))
        return run(data_dir, "held_out", eval_every=2, eval_holdout_shards=1), read


def test_held_out_shards_are_scored_and_not_trained_on(held_out, data_dir):
    run_dir, read = held_out
    names = [shard.name for shard in load_metadata(data_dir / "pretrain_tfrecords").shards]
    assert len(names) == 4
    assert read == {"training_batches": set(names[:3]), "evaluation_batches": {names[3]}}
    assert [line["step"] for line in log_lines(run_dir)[1]] == [2, 4, 5]


def test_a_resumed_run_has_the_same_scores(held_out, data_dir):
    run_dir = data_dir / "models" / "killed"
    shutil.copytree(held_out[0], run_dir)
    before = log_lines(run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "step_5")  # as if killed in step 5
    run(data_dir, "killed", eval_every=2, eval_holdout_shards=1, do_eval=True)
    training, evaluations = log_lines(run_dir)
    *evaluations, at_the_end = evaluations
    for whole, resumed in zip(before, (training, evaluations), strict=True):
        assert [line["step"] for line in whole] == [line["step"] for line in resumed]
    final = json.loads((run_dir / "results" / "pretrain_results.json").read_text())
    for name in (f"eval_{name}" for name in SCORES):
        assert evaluations[-1][name] == pytest.approx(before[1][-1][name], rel=1e-3, abs=1e-3)
        assert final[name] == at_the_end[name]
        assert final[name] == pytest.approx(evaluations[-1][name], rel=1e-3, abs=1e-3)


def test_what_cannot_be_scored(held_out, data_dir, tmp_path):
    corpora.write_records(tmp_path / "other", [8], max_seq_length=24)
    missing, other = str(tmp_path / "missing"), str(tmp_path / "other")
    for name, message, hparams in (
        ("new", "`eval_every` must be null unless `eval_tfrecords`", {"eval_every": 2}),
        ("new", r"`eval_holdout_shards`.* 4 ", {"eval_holdout_shards": 4}),
        ("held_out", "eval_holdout_shards was 1, is 2", {"eval_holdout_shards": 2}),
        ("new", f"`eval_tfrecords`: {missing}", {"eval_every": 2, "eval_tfrecords": missing}),
        ("new", f" {other} .*vocab", {"eval_every": 2, "eval_tfrecords": other}),
    ):
        with pytest.raises(InputError, match=message):
            run(data_dir, name, num_train_steps=6, **hparams)
        assert not (data_dir / "models" / "new").exists()


def test_empty_shards_are_not_held_out(tmp_path):
    metadata = corpora.write_records(tmp_path / "records", [5, 3, 4, 0])
    training, aside = hold_out(metadata, 1)
    assert [shard.examples for shard in training.shards] == [5, 3]
    assert [shard.examples for shard in aside.shards] == [4]
    assert (training.num_examples, aside.num_examples) == (8, 4)
    with pytest.raises(InputError, match=r"`eval_holdout_shards`.* 3 "):
        hold_out(metadata, 3)
