#!/usr/bin/env bash
# Builds the pre-training records of the corpus in $DATA_DIR. Further arguments go to build_data.py:
#     DATA_DIR=~/convbert bash build_data.sh --num-processes 8
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/scripts/environment.sh"
run_job build_data.py "$@"
