#!/usr/bin/env bash
# The benchmark against the peers: tests/bench.sh [IMAGES [RESULTS]]
#
# Makes the disks (SCALE and GIB as in bench/make-workload.sh; kept for later runs), builds the release binary without
# clouds, takes the peers that are installed (RESTIC, RUSTIC, BORG name them; `tests/bench/get-peers.sh DIR` fetches
# them by package name) and prints one table. Figures are read from it by a person; nothing is asserted.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); cache=${REPLICATE_CACHE:-$HOME/.cache/replicate}
images=${1:-$cache/bench-images}; results=${2:-$cache/bench-results}
[ -s "$images/MANIFEST" ] || STATS=${STATS:-0} bash "$here/bench/make-workload.sh" "$images" "${SEED:-1}" "${SCALE:-100}"
if [ -z "${REPLICATE:-}" ]; then
  export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
  cargo build --release -q --manifest-path "$here/../Cargo.toml" -p replicate --no-default-features
  export REPLICATE=$CARGO_TARGET_DIR/release/replicate
fi
exec bash "$here/bench/peers.sh" "$images" "$results" ${PEERS:-}
