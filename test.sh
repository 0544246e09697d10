#!/usr/bin/env bash
# Runs the test suite in .venv, which it makes if needed. Further arguments go to pytest; `-n 0` puts
# all tests in one process.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/scripts/environment.sh"
make_venv .venv requirements-dev.txt
cd "$root"
exec "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
