#!/usr/bin/env bash
# Type-check and test this distribution in its own environment: `engines/openvino/run-tests.sh [pytest arguments]`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$("$here/make-venv.sh")
cd "$here"
export PYTHONDONTWRITEBYTECODE=1
"$python" -m mypy
exec "$python" -m pytest "$@"
