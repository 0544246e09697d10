#!/usr/bin/env bash
# Runs the test suite in .venv, which it makes if needed. Further arguments go to pytest.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/scripts/environment.sh"
make_venv
cd "$root"
exec "$python" -m pytest "$@"
