#!/usr/bin/env bash
# Runs a command while the test cloud is up, and ends the cloud with it, whatever happens to the command or to this script.
#
# Usage: tests/openstack/with.sh TIER COMMAND...
#
# The command finds the cloud by REPLICATE_OPENSTACK (its folder, which holds clouds.yaml). Exit code: the command's; 0
# after a line `SKIPPED: why` where the cloud cannot be had. A machine has one cloud: whoever comes second waits.
. "$(dirname "$0")/lib.sh"
tier=$1; shift

skipped() { printf 'SKIPPED: no OpenStack here: %s\n' "$*"; exit 0; }
# The watch outlives us, so that even kill -9 leaves no service behind; it ends by itself once the cloud is down. It holds
# the lock as well: what it ends late must not be the services of whoever comes next.
watch() {
  setsid bash -c "while [ -d /proc/$$ ]; do sleep 1; done; exec '$HERE/down.sh'" >/dev/null 2>&1 </dev/null &
}
unless_skipped() {
  local code=0
  "$@" || code=$?
  [ $code != 77 ] || exit 0
  return $code
}
exec 8>"$OSLAB/lock/with"
flock -w 2700 8 || skipped "others have used the test cloud for 45 minutes"
unless_skipped "$HERE/install.sh" "$tier" 8>&-
watch
trap '"$HERE/down.sh"' EXIT
trap 'exit 130' INT TERM HUP
begins() { "$HERE/up.sh" --fresh "$tier" 8>&-; }
# services that do not start here say nothing of the project: once more, from nothing, and then it is told and left
unless_skipped begins || {
  "$HERE/down.sh" --purge
  unless_skipped begins || skipped "its services do not start, see $OSLAB/log"
}
# the caller's own PATH and variables: lib.sh has changed them for the services
PATH=$CALLER_PATH REPLICATE_OPENSTACK=$OSLAB "$@" 8>&-
