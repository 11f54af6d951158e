#!/bin/sh
# python.sh: prints the Python that has the packages of requirements.txt, and beside it Azure's contract; makes it once,
# in ${REPLICATE_CACHE:-~/.cache/replicate}. Exit code 77: it cannot be had here.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${REPLICATE_CACHE:-$HOME/.cache/replicate}
venv=$cache/cloudsim-$(cat "$here/requirements.txt" "$here/azure_contract.py" | sha256sum | cut -c1-12)
mkdir -p "$cache"
exec 9>"$venv.lock"
flock 9 # several tests ask at once
if [ ! -e "$venv/complete" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv" >&2 || exit 77
    "$venv/bin/python" -m pip install --quiet -r "$here/requirements.txt" >&2 || exit 77
    "$venv/bin/python" "$here/azure_contract.py" "$venv/contract" >&2 || exit 77
    touch "$venv/complete"
fi
echo "$venv/bin/python"
