#!/usr/bin/env bash
# How much of a limit of block requests the AWS provider uses, against the simulator: tests/bench/aws.sh [SECONDS]
#
# Writes a disk and reads it back, each for about SECONDS (default 20), at several limits of requests a second for one
# snapshot and several latencies. A limit beyond what this machine moves (a request is 512 KiB, and simulator and program
# share its cores) tells of the machine: so does the lowest latency at the highest limit. Nothing is asserted.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd); cache=${REPLICATE_CACHE:-$HOME/.cache/replicate}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
[ -n "${BENCH:-}" ] || cargo build --release -q --manifest-path "$here/Cargo.toml" -p cloud-aws --example aws
run() { "${BENCH:-$CARGO_TARGET_DIR/release/examples/aws}" "$@"; }
seconds=${1:-20}
# limit, what is had at once after a pause, latency
run 200 20 100 "$seconds"
run 200 200 50 "$seconds"
run 500 50 100 "$seconds"
run 1000 100 50 "$seconds"
run 1000 1000 100 "$seconds"
