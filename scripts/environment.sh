# Sourced by the shell scripts of the project's root: where things are, and the Python to run.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
DATA_DIR="${DATA_DIR:-data_dir}"
MODEL_NAME="${MODEL_NAME:-convbert}"
python="$root/.venv/bin/python"
[ -x "$python" ] || python=python3
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}" # TensorFlow's warnings are not ours

# Runs a Python file of the project with further arguments.
run_job() {
  if ! "$python" -c 'import absl' 2>/dev/null; then
    echo "error: $python has not what requirements.txt lists; bash quickstart.sh makes .venv" >&2
    exit 1
  fi
  exec "$python" "$root/$1" --data-dir "$DATA_DIR" "${@:2}"
}

# Makes .venv with what requirements.txt pins, unless it is there and up to date.
make_venv() {
  local stamp="$root/.venv/requirements.installed" candidate
  if cmp -s "$root/requirements.txt" "$stamp"; then
    return
  fi
  if [ ! -x "$root/.venv/bin/python" ]; then
    for candidate in python3 python3.12 python3.13 python3.11 none; do
      if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
        2>/dev/null; then
        break
      fi
    done
    if [ "$candidate" = none ]; then
      echo "error: no Python 3.11, 3.12 or 3.13 found; TensorFlow has wheels for no other" >&2
      exit 1
    fi
    echo "making .venv with $("$candidate" --version)"
    if ! "$candidate" -m venv "$root/.venv"; then
      rm -rf "$root/.venv"
      echo "error: $candidate cannot make virtual environments (Debian: apt install python3-venv)" >&2
      exit 1
    fi
  fi
  echo "installing requirements.txt"
  "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -r "$root/requirements.txt"
  cp "$root/requirements.txt" "$stamp"
  python="$root/.venv/bin/python"
}
