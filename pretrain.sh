#!/usr/bin/env bash
# Pre-trains on the records in $DATA_DIR; the same command resumes a stopped run. Further arguments
# go to pretrain.py:
#     DATA_DIR=~/convbert MODEL_NAME=my_model bash pretrain.sh --hparams '{"model_size": "small"}'
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/scripts/environment.sh"
run_job pretrain.py --model-name "$MODEL_NAME" "$@"
