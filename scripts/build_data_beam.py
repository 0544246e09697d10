"""Builds the pre-training records of a corpus on a cluster, with Apache Beam.

The shards and metadata.json are those of build_data.py, byte for byte. All workers need this
checkout on their PYTHONPATH, the packages in requirements-beam.txt, and the data directory (and the
corpus) in a shared directory with the same path on each. Beam's own options follow a lone `--`:

    python scripts/build_data_beam.py --data-dir /shared/convbert -- \
        --runner=FlinkRunner --flink_master=host:8081 --parallelism=64 \
        --environment_type=EXTERNAL --environment_config=localhost:50000
"""

import argparse
import functools
import importlib.util
import os
from pathlib import Path

import bootstrap  # noqa: F401

from common import errors
from common.errors import InputError
from data.records.command_line import add_arguments, build

ROOT = Path(__file__).parents[1]


def main():
    """Resumes what an earlier pipeline left, and has Beam build the rest."""
    args = parse_arguments()
    if importlib.util.find_spec("apache_beam") is None:
        raise InputError(f"Apache Beam is missing: pip install -r {ROOT}/requirements-beam.txt")
    from data.records.cluster import BeamWorkers, collect_notes

    for name in ("data_dir", "corpus", "vocab_file"):  # workers have other working directories
        if getattr(args, name):
            setattr(args, name, os.path.abspath(getattr(args, name)))
    # For the workers that Beam starts on this machine; elsewhere, their container sets these.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    for threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(threads, "1")  # the workers are the parallelism
    collect_notes(Path(args.data_dir, "pretrain_tfrecords"))
    make_workers = functools.partial(BeamWorkers, pipeline_arguments=args.pipeline_options)
    build(args, make_workers=make_workers)


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    add_arguments(parser)
    parser.add_argument(
        "pipeline_options",
        nargs="*",
        help="after a lone `--`: Beam's own options, such as the runner (default: none, so Beam's "
        "direct runner builds on this machine)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    errors.run(main)
