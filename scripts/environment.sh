# Sourced by the shell scripts in the project's root: where things are, and the Python to run.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
DATA_DIR="${DATA_DIR:-data_dir}"
MODEL_NAME="${MODEL_NAME:-convbert}"
python="$root/.venv/bin/python"
[ -x "$python" ] || python=python3

# Runs a Python file of the project with further arguments.
run_job() {
  if ! "$python" -c 'import absl' 2>/dev/null; then
    echo "error: packages from requirements.txt are missing in $python; bash quickstart.sh makes .venv" >&2
    exit 1
  fi
  exec "$python" "$root/$1" --data-dir "$DATA_DIR" "${@:2}"
}

# make_venv FOLDER FILE...: makes a virtual environment and installs what the files list, file by
# file, unless it is up to date. The default is .venv with requirements.txt.
make_venv() {
  local folder="$root/${1:-.venv}" files=("${@:2}") candidate file stamp
  [ ${#files[@]} -gt 0 ] || files=(requirements.txt)
  stamp="$folder/${files[*]##*/}.installed"
  python="$folder/bin/python"
  if (cd "$root" && cat requirements.txt "${files[@]}") | cmp -s - "$stamp"; then
    return
  fi
  if [ ! -x "$python" ]; then
    for candidate in python3 python3.12 python3.13 python3.11 none; do
      if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
        2>/dev/null; then
        break
      fi
    done
    if [ "$candidate" = none ]; then
      echo "error: no Python 3.11, 3.12 or 3.13 found; TensorFlow has no wheels for others" >&2
      exit 1
    fi
    echo "making ${folder##*/} with $("$candidate" --version)"
    if ! "$candidate" -m venv "$folder"; then
      rm -rf "$folder"
      echo "error: $candidate cannot make virtual environments (Debian: apt install python3-venv)" >&2
      exit 1
    fi
  fi
  for file in "${files[@]}"; do
    echo "installing $file"
    "$python" -m pip install --quiet --disable-pip-version-check -r "$root/$file"
  done
  (cd "$root" && cat requirements.txt "${files[@]}") >"$stamp"
}
