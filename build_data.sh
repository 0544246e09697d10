#!/usr/bin/env bash
# Builds the pre-training records of the corpus in DATA_DIR. Further arguments go to build_data.py:
#   DATA_DIR=data_dir bash build_data.sh --num-processes 8
set -euo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
python="$here/.venv/bin/python"
[ -x "$python" ] || python=python3
exec "$python" "$here/build_data.py" --data-dir "${DATA_DIR:-data_dir}" "$@"
