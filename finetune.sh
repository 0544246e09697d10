#!/usr/bin/env bash
# Fine-tunes on tasks by name ("all": GLUE's nine) or your own (JSON files, see docs/finetuning.md),
# one after the other. Further arguments go to finetune.py:
#     DATA_DIR=~/convbert MODEL_NAME=my_model bash finetune.sh cola rte --hparams '{"num_trials": 5}'
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/scripts/environment.sh"
run_job finetune.py --model-name "$MODEL_NAME" "$@"
