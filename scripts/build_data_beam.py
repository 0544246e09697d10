"""Builds the pre-training records of a corpus on a cluster, with Apache Beam.

The shards and metadata.json are those of build_data.py, byte for byte. All workers need this
checkout on their PYTHONPATH, what requirements-beam.txt lists, and the data folder (and the corpus)
as a shared folder with the same path on each. Beam's own options come after a lone `--`:

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
from data.records.cluster import BeamWorkers, collect_notes
from data.records.command_line import add_arguments, build

ROOT = Path(__file__).parents[1]


def main():
    """Takes up what an earlier pipeline left, and has Beam build the rest."""
    args = parse_arguments()
    if importlib.util.find_spec("apache_beam") is None:
        raise InputError(f"Apache Beam is missing: pip install -r {ROOT}/requirements-beam.txt")
    for name in ("data_dir", "corpus", "vocab_file"):  # workers have other working directories
        if getattr(args, name) is not None:
            setattr(args, name, os.path.abspath(getattr(args, name)))
    # For the workers that Beam starts on this machine; elsewhere, these belong in their container.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    for threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(threads, "1")  # the workers are the parallelism
    collect_notes(Path(args.data_dir, "pretrain_tfrecords"))
    build(
        args,
        make_workers=functools.partial(BeamWorkers, pipeline_arguments=args.pipeline_options),
    )


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument(
        "pipeline_options",
        nargs="*",
        help="after a lone `--`: Beam's own options, the runner first of all; with none, Beam's "
        "direct runner builds here (default: none)",
        default=argparse.SUPPRESS,
    )
    parser.set_defaults(pipeline_options=[])
    return parser.parse_args()


if __name__ == "__main__":
    errors.run(main)
