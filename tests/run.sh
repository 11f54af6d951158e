#!/usr/bin/env bash
# Installs what is needed, then checks and tests the whole project. This is what CI runs.
#
# Usage: tests/run.sh [--slow] [--no-install] [PART...]
#   --slow         also what takes long: guests that go round a real OpenStack, crash sweeps over every point and pair, the
#                  demo; and cargo-deny is built where it is missing
#   --no-install   do not install packages
#   PART           only these: format clippy unit workspace openstack proofs sweeps deny demo
#
# Build products go to ${CARGO_TARGET_DIR:-~/.cache/replicate/target}, outside the clone, so that they are reused
# where they exist; downloads and the test guest to ${REPLICATE_CACHE:-~/.cache/replicate}.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export REPLICATE_CACHE=${REPLICATE_CACHE:-$HOME/.cache/replicate}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$REPLICATE_CACHE/target}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin

slow= no_install= parts=()
for word in "$@"; do
  case $word in
    --slow) slow=1 ;;
    --no-install) no_install=1 ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "tests/run.sh: no such option: $word" >&2; exit 2 ;;
    *) parts+=("$word") ;;
  esac
done

wanted() {
  local part
  [ ${#parts[@]} -eq 0 ] && return 0
  for part in "${parts[@]}"; do [ "$part" = "$1" ] && return 0; done
  return 1
}

began=$SECONDS summary=() failed=0
# Runs one part, keeps its time and its verdict. Its output is shown as it comes, and kept to count skips.
part() {
  local name=$1 start=$SECONDS verdict=ok log
  shift
  wanted "$name" || return 0
  printf '\n==> %s\n' "$name"
  log=$(mktemp)
  if ! "$@" 2>&1 | tee "$log"; then verdict=FAILED; failed=$((failed + 1)); fi
  if grep -q SKIPPED "$log"; then
    verdict="$verdict, $(grep -c SKIPPED "$log") skipped"
    skips+=$(grep SKIPPED "$log" | sed 's/^/  /')$'\n'
  fi
  rm -f "$log"
  summary+=("$(printf '%-12s %4d s  %s' "$name" $((SECONDS - start)) "$verdict")")
}
skips=

command -v cargo >/dev/null || { echo "tests/run.sh: cannot find cargo: install Rust first" >&2; exit 1; }
if [ -z "$no_install" ]; then
  start=$SECONDS
  deploy/install-packages.sh || exit 1
  summary+=("$(printf '%-12s %4d s  ok' install $((SECONDS - start)))")
fi

format() { cargo fmt --all --check; }
lint() { cargo clippy --locked --workspace --all-targets -- -D warnings; }
unit() { cargo test --locked --workspace --exclude tests --no-fail-fast -- --show-output; }
# The tests that start guests share two cores: a few at a time, each boot in its time.
workspace() {
  cargo test --locked --workspace --test it --no-fail-fast -- --skip openstack:: \
    --test-threads "${REPLICATE_TEST_THREADS:-3}" --show-output
}
# Against real OpenStack services, which run only as long as these tests do.
openstack() {
  local tests=(cargo test --locked --workspace --test it) more=()
  [ -z "$slow" ] || more=(--include-ignored)
  "${tests[@]}" --no-run || return 1
  OSLAB_NO_INSTALL=${no_install:-} tests/openstack/with.sh 3 \
    "${tests[@]}" -- openstack:: "${more[@]}" --test-threads "${REPLICATE_TEST_THREADS:-3}" --show-output
}
proofs() {
  cargo test --locked --workspace --no-fail-fast -- --skip openstack:: --ignored --test-threads 2 --show-output
}
# Death at every point, and in the engine at every pair of points: the default run dies at some of them.
sweeps() {
  REPLICATE_SWEEP=full CRASH_EVERY=1 cargo test --locked -p engine -p replicate --no-fail-fast \
    --test engine --test crash --test s3 --test aws --test azure --test azblob -- --test-threads 3 --show-output \
    survive a_vault_ killed
}
licences() {
  PATH=$PATH:$REPLICATE_CACHE/tools/bin
  if ! command -v cargo-deny >/dev/null; then
    [ -n "$slow" ] || { echo "SKIPPED: cargo-deny is not installed (tests/run.sh --slow builds it once)"; return 0; }
    CARGO_TARGET_DIR=$REPLICATE_CACHE/tools/target \
      cargo install -q --locked --root "$REPLICATE_CACHE/tools" cargo-deny@0.20.2 || return 1
    rm -rf "$REPLICATE_CACHE/tools/target"
  fi
  # of all platforms' crates, which a build here does not fetch
  cargo fetch -q --locked || return 1
  # the advisory database is fetched from a code host that a closed network may not reach
  cargo deny --offline check bans licenses sources
}
demo() { deploy/demo.sh && deploy/demo.sh --clouds; }

part format format
part clippy lint
part unit unit
part workspace workspace
part openstack openstack
[ -n "$slow" ] && part proofs proofs
{ [ -n "$slow" ] || [ ${#parts[@]} -gt 0 ]; } && part sweeps sweeps
part deny licences
{ [ -n "$slow" ] || [ ${#parts[@]} -gt 0 ]; } && part demo demo

printf '\n%s\n' "-------- tests/run.sh --------"
printf '%s\n' "${summary[@]}"
[ -n "$skips" ] && printf 'skipped:\n%s' "$skips"
printf '%-12s %4d s  %s\n' total $((SECONDS - began)) "$([ $failed = 0 ] && echo ok || echo "$failed FAILED")"
[ $failed = 0 ]
