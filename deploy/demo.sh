#!/usr/bin/env bash
# Shows the whole way on one machine, with a real server: capture it while it runs, twice; lose its host; get it back
# from the vault at another site, with its data; prove that it could be done again.
#
# Usage: deploy/demo.sh [--clouds] [--keep]        (as root, or as any user once deploy/install-packages.sh was run)
#   --clouds  instead: the server goes to AWS, from there to Azure and back to a host, booting everywhere; the clouds are
#             simulated on this machine (tests/cloudsim), their instances are real guests
#   --keep    leave the demo's folder, with its configuration, for looking around
#
# Needs Rust and a Debian-like system; takes about two minutes after the build, without KVM too.
# REPLICATE_BIN=FILE and CLOUDSIM_BIN=FILE use programs that are built already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

keep='' story=host
for word in "$@"; do
  case $word in
    --keep) keep=1 ;;
    --clouds) story=clouds ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done

export REPLICATE_CACHE=${REPLICATE_CACHE:-$HOME/.cache/replicate}
target=${CARGO_TARGET_DIR:-$REPLICATE_CACHE/target}
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
log=$(mktemp /tmp/replicate-demo.log.XXXXXX)
. deploy/demo/lib.sh

case $story in
  host) printf 'replicate: a server is lost and comes back\n\n' ;;
  clouds) printf 'replicate: a server goes to AWS, to Azure, and home again\n\n' ;;
esac
start=$(now)
say "installing what is missing, building the program and a small Debian server (the first time takes minutes) ..."
quietly deploy/install-packages.sh
build() { CARGO_TARGET_DIR=$target quietly cargo build --release --locked "$@"; }
if [ -z "${REPLICATE_BIN:-}" ]; then
  case $story in
    host) build -p replicate --no-default-features ;;
    clouds) build -p replicate ;;
  esac
  REPLICATE_BIN=$target/release/replicate
fi
if [ $story = clouds ] && [ -z "${CLOUDSIM_BIN:-}" ]; then
  build -p cloudsim
  CLOUDSIM_BIN=$target/release/cloudsim
fi
guest=$(tests/guest/build.sh 2>>"$log") || { tail -5 "$log" >&2; die "cannot build the guest"; }
say "ready after $(since "$start") s"

lab=$(mktemp -d /tmp/replicate-demo.XXXXXX)
mkdir -p "$lab"/{bin,prod,dr/run,dr/disks,vault,policies}
ln -s "$(realpath "$REPLICATE_BIN")" "$lab/bin/replicate"
PATH=$lab/bin:$PATH
export REPLICATE_CONFIG=$lab/replicate.toml
head -c 24 /dev/urandom | base64 > "$lab/passphrase"
chmod 600 "$lab/passphrase"

production='' simulator=''
cleanup() {
  local file pid
  [ -z "$production" ] || kill -9 "$production" 2>/dev/null || true
  # ends its guests, too
  if [ -n "$simulator" ]; then kill "$simulator" 2>/dev/null && wait "$simulator" 2>/dev/null || true; fi
  for file in "$lab"/dr/disks/instances/*/pid; do
    [ -e "$file" ] || continue
    pid=$(cat "$file")
    # only if it is still the server of this demo
    if tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF "$file"; then kill -9 "$pid" 2>/dev/null || true; fi
  done
  [ -n "$keep" ] || rm -rf "$lab"
}
trap cleanup EXIT

. "deploy/demo/$story.sh"

if [ -n "$keep" ]; then printf '\n     the demo is still there: export REPLICATE_CONFIG=%s\n' "$REPLICATE_CONFIG"; fi
rm -f "$log"
