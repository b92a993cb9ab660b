#!/usr/bin/env bash
# Brings up a cluster of its own, runs the tests marked `cluster` on it, and takes it down again.
# usage: tests/on-cluster.sh NAME [pytest arguments]     KEEP=1 leaves the cluster running
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1
shift

if ! python3 - <<'PY'; then
import sys
from devcluster.errors import DevclusterError
from devcluster.paths import STATE_ROOT
from devcluster.preflight import require_host
try:
    require_host(STATE_ROOT)
except DevclusterError as error:
    sys.exit(str(error))
PY
  echo "SKIPPED the tests on a real cluster: this machine cannot run one (see above)." >&2
  exit 0
fi
if [[ -z ${KEEP:-} ]]; then
  trap 'python3 -m devcluster down --name "$name"' EXIT
fi
python3 -m devcluster up --name "$name" --kwok-nodes 60 --node-monitor-grace 20
export TRIMTAB_CLUSTER=$name
eval "$(python3 -m devcluster env --name "$name")"
.venv/bin/pytest -m cluster "$@"
