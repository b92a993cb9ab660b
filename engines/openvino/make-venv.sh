#!/usr/bin/env bash
# Make (or reuse) the virtual environment with this distribution's pinned dependencies and print its Python's path.
# It lives in the cache, not in the tree, and holds no copy of the code: set PYTHONPATH to this folder.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TRIMTAB_CACHE:-$HOME/.cache/trimtab}
base=${PYTHON:-python3}
key=$( { "$base" -V; cat "$here"/constraints*.txt; } | sha256sum | cut -c1-16)
venv=$cache/engine-venv
mkdir -p "$cache"
exec 9>"$cache/engine-venv.lock"
flock 9  # two callers at once: the second waits and finds it ready
if [[ "$(cat "$venv/.key" 2>/dev/null)" != "$key" ]]; then
  echo "Installing the engine's Python packages into $venv (about 15 seconds)" >&2
  rm -rf "$venv"
  "$base" -m venv "$venv" >&2
  "$venv/bin/pip" install -q --disable-pip-version-check -r "$here/constraints-dev.txt" >&2
  echo "$key" >"$venv/.key"
fi
echo "$venv/bin/python"
