#!/usr/bin/env bash
# Runs a command while the test cloud is up, and ends the cloud with it, whatever happens to the command or to this script.
#
# Usage: tests/openstack/with.sh TIER COMMAND...
#
# The command finds the cloud by REPLICATE_OPENSTACK (its folder, which holds clouds.yaml). Exit code: the command's; 0
# after a line `SKIPPED: why` where the cloud cannot be had.
. "$(dirname "$0")/lib.sh"
tier=$1; shift

# The watch outlives us, so that even kill -9 leaves no service behind; it ends by itself once the cloud is down.
watch() {
  setsid bash -c "while [ -d /proc/$$ ]; do sleep 2; done; exec '$HERE/down.sh'" >/dev/null 2>&1 </dev/null &
}
unless_skipped() {
  local code=0
  "$@" || code=$?
  [ $code != 77 ] || exit 0
  [ $code = 0 ] || exit $code
}
unless_skipped "$HERE/install.sh" "$tier"
watch
trap '"$HERE/down.sh"' EXIT
trap 'exit 130' INT TERM HUP
unless_skipped "$HERE/up.sh" --fresh "$tier"
# the caller's own PATH and variables: lib.sh has changed them for the services
PATH=$CALLER_PATH REPLICATE_OPENSTACK=$OSLAB "$@"
