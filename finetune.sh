#!/usr/bin/env bash
# Fine-tunes on GLUE tasks, one after the other:
#
#     DATA_DIR=~/convbert MODEL_NAME=my_model bash finetune.sh cola rte mrpc
#     DATA_DIR=~/convbert MODEL_NAME=my_model bash finetune.sh all --hparams '{"num_trials": 5}'
#
# Further arguments go to finetune.py: see `python3 finetune.py --help`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for name in DATA_DIR MODEL_NAME; do
  if [ -z "${!name:-}" ]; then
    echo "error: set $name, as in: DATA_DIR=~/convbert MODEL_NAME=my_model bash finetune.sh cola" >&2
    exit 1
  fi
done
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" "$here/finetune.py" --data-dir "$DATA_DIR" --model-name "$MODEL_NAME" "$@"
