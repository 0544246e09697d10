#!/usr/bin/env bash
# Pre-trains a model on $DATA_DIR/pretrain_tfrecords; the same command resumes a stopped run.
# Further arguments go to pretrain.py, e.g.  --hparams '{"model_size": "small"}'
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="$here/.venv/bin/python"
[ -x "$python" ] || python=python3
DATA_DIR="${DATA_DIR:-data_dir}"
MODEL_NAME="${MODEL_NAME:-convbert-medium-small}"
exec "$python" "$here/pretrain.py" --data-dir "$DATA_DIR" --model-name "$MODEL_NAME" "$@"
