#!/usr/bin/env bash
# Starts the test cloud and waits until it can be used; safe to repeat, starts only what does not run.
#
# Usage: tests/openstack/up.sh [--fresh] [TIER]      (install.sh must have run; TIER 1 to 3, default 3)
#   --fresh   as it was after its first start: no image, no server, no volume of an earlier use
#
# The first start makes databases, users and the catalogue, and keeps a copy of them; it is redone when these scripts or
# the packages have changed. Exit code 77: it cannot be had on this machine; a line `SKIPPED: why` says so.
. "$(dirname "$0")/lib.sh"
root_or_sudo "$@"
fresh=
[ "${1:-}" != --fresh ] || { fresh=1; shift; }
tier=${1:-3}
. "$HERE/tier1.sh"
. "$HERE/tier2.sh"
. "$HERE/tier3.sh"

exec 9>"$OSLAB/lock/up"
flock 9
if [ "$tier" -ge 2 ]; then
  ip link add oslab-probe type bridge 2>/dev/null || cannot "this machine lets nobody make a network bridge"
  ip link del oslab-probe
fi

# What the first start made stays true as long as these do not change.
key=$({ cd "$HERE" && cat ./*.sh ./*.py "$RULES"
  echo "$PORT $PROJECTS"
  dpkg-query -W python3-keystone python3-glance python3-nova python3-neutron python3-placement python3-cinder \
    libvirt0 2>/dev/null || true; } | sha256sum | cut -c1-16)
if [ -n "$fresh" ] || [ "$(cat "$OSLAB/key" 2>/dev/null)" != "$key" ]; then
  "$HERE/down.sh"
  if [ "$(cat "$OSLAB/key" 2>/dev/null)" = "$key" ]; then restore_state; else forget; fi
  echo "$key" >"$OSLAB/key"
fi

began=$SECONDS
for t in $(seq "$tier"); do "tier${t}_up"; done
for t in $(seq "$tier"); do "tier${t}_ready"; done
# shellcheck disable=SC2086 # a list of words
[ "$tier" -lt 2 ] || once tenants $PY "$HERE/tenants.py" $PROJECTS
[ "$(cat "$OSLAB/saved/tier" 2>/dev/null || echo 0)" -ge "$tier" ] || save_state "$tier"
say "tier $tier is up after $((SECONDS - began)) s: OS_CLIENT_CONFIG_FILE=$OSLAB/clouds.yaml"
