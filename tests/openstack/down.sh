#!/usr/bin/env bash
# Ends what up.sh has started, guests included, by recorded process ids; unmounts, and removes bridges.
#
# Usage: tests/openstack/down.sh [--purge]
#   --purge   also forgets everything that the cloud keeps
. "$(dirname "$0")/lib.sh"
root_or_sudo "$@"
. "$HERE/tier2.sh"
. "$HERE/tier3.sh"

guests_down
shopt -s nullglob
for file in "$OSLAB"/run/*.pid; do
  name=$(basename "$file" .pid)
  alive "$name" && kill -TERM -- "-$(cat "$file")" 2>/dev/null || true
done
for file in "$OSLAB"/run/*.pid; do
  pid=$(cat "$file")
  for _ in $(seq 60); do alive "$(basename "$file" .pid)" || break; sleep 0.25; done
  alive "$(basename "$file" .pid)" && kill -KILL -- "-$pid" 2>/dev/null || true
  rm -f "$file"
done
bridges_down
shares_down
[ "${1:-}" != --purge ] || forget
