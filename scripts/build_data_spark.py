"""Builds the pre-training records of a corpus on a cluster, with Apache Spark.

The shards and metadata.json are those of build_data.py, byte for byte. The data directory and the
corpus must be on shared storage, under the same path on all machines, or in an object store. Every
machine needs the packages in requirements.txt; the project's code is sent to it. Options of Spark
itself go to spark-submit:

    spark-submit --master spark://host:7077 scripts/build_data_spark.py --data-dir /shared/convbert
"""

import argparse
import functools
import importlib.util
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import bootstrap  # noqa: F401

from common import errors
from common.errors import InputError
from common.remote import is_url
from data.records.command_line import add_arguments, build

if TYPE_CHECKING:
    from data.records.cluster import SparkWorkers
    from data.records.options import BuildOptions

ROOT = Path(__file__).resolve().parents[1]


def main():
    """Resumes what an earlier job left, and has Spark build the rest."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    add_arguments(parser)
    args = parser.parse_args()
    if importlib.util.find_spec("pyspark") is None:
        raise InputError(f"Spark is missing: pip install -r {ROOT}/requirements-spark.txt")
    from py4j.protocol import Py4JError, Py4JJavaError
    from pyspark.errors import PySparkException

    for name in ("data_dir", "corpus", "vocab_file"):  # workers have other working directories
        path = getattr(args, name)
        if path and not is_url(path):
            setattr(args, name, os.path.abspath(path))
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    try:
        with tempfile.TemporaryDirectory() as folder:
            archive = f"{folder}/convbert.zip"
            build(args, make_workers=functools.partial(make_workers, archive=archive))
    except (Py4JError, PySparkException) as error:
        java = error.java_exception if isinstance(error, Py4JJavaError) else None
        reason = str(java.getMessage() if java else error).partition("\nDriver stacktrace")[0]
        raise InputError(
            f"Spark gave up: {reason.strip()}\nFinished shards are kept: run the same command "
            "again. If Spark did not start: it needs Java 17 or later, and after --master the "
            "address of a running cluster."
        ) from error


def make_workers(options: "BuildOptions", archive: str) -> "SparkWorkers":
    """Connects to the cluster, and sends it the project's code in a zip file, `archive`."""
    from pyspark.sql import SparkSession

    from data.records.cluster import SparkWorkers

    context = SparkSession.builder.appName("ConvBERT records").getOrCreate().sparkContext
    with zipfile.ZipFile(archive, "w") as file:
        for path in (path for name in ("common", "data") for path in ROOT.glob(f"{name}/**/*.py")):
            file.write(path, path.relative_to(ROOT))
    context.addPyFile(archive)
    return SparkWorkers(options, context)


if __name__ == "__main__":
    errors.run(main)
