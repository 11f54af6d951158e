#!/usr/bin/env bash
# Throughput of the OpenStack provider against curl, on the same Glance of the test cloud: tests/bench/openstack.sh [MIB]
#
# Sends MIB (default 1024) of data that does not compress, and reads it back, three times each in turn, and prints a line a
# time, and at the end what share of curl's throughput the medians are. `summed` and `checked` are curl with a sum of what it
# sends and reads beside it (openssl, SHA-512), which is what the provider does: at memory speed the sum is the bound.
# RATE=2gbit makes the loopback a network of that speed meanwhile (as root), for all that use it. Run it inside the cloud:
#   tests/openstack/with.sh 3 tests/bench/openstack.sh
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd); cache=${REPLICATE_CACHE:-$HOME/.cache/replicate}
lab=${REPLICATE_OPENSTACK:?run this by tests/openstack/with.sh}
mib=${1:-1024} cloud=alice
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
[ -n "${BENCH:-}" ] || cargo build --release -q --manifest-path "$here/Cargo.toml" -p cloud --example openstack
work=$(mktemp -d "$cache/bench.XXXXXX")
trap 'rm -rf "$work"; [ -z "${RATE:-}" ] || tc qdisc del dev lo root' EXIT
[ -z "${RATE:-}" ] || tc qdisc replace dev lo root tbf rate "$RATE" burst 1mb latency 100ms
head -c $((mib << 20)) /dev/urandom >"$work/disk.raw"

export OS_CLIENT_CONFIG_FILE=$lab/clouds.yaml
read -r token glance < <(/usr/bin/python3 -W ignore -c "
import openstack
c = openstack.connect(cloud='$cloud')
print(c.auth_token, c.image.get_endpoint())")
glance=${glance%/v2*}/v2
call() { curl -sS -f -H "X-Auth-Token: $token" "$@"; }
new_image() {
  call -H 'Content-Type: application/json' "$glance/images" \
    -d '{"name": "bench", "disk_format": "raw", "container_format": "bare"}' | sed 's/.*"id": *"\([^"]*\)".*/\1/'
}
with_curl() {
  local image up summed down checked
  image=$(new_image)
  summed=$(tee >(openssl dgst -sha512 >/dev/null) <"$work/disk.raw" | call -o /dev/null -w '%{speed_upload}' \
    -H 'Content-Type: application/octet-stream' -T - "$glance/images/$image/file")
  call -X DELETE "$glance/images/$image"
  image=$(new_image)
  up=$(call -o /dev/null -w '%{speed_upload}' -H 'Content-Type: application/octet-stream' -T "$work/disk.raw" \
    "$glance/images/$image/file")
  down=$(call -o /dev/null -w '%{speed_download}' "$glance/images/$image/file")
  checked=$( { call -w '%{stderr}%{speed_download}' "$glance/images/$image/file" | openssl dgst -sha512 >/dev/null; } 2>&1)
  call -X DELETE "$glance/images/$image"
  echo "curl  up $((${up%.*} >> 20)) MiB/s, summed $((${summed%.*} >> 20)) MiB/s, down $((${down%.*} >> 20)) MiB/s, checked $((${checked%.*} >> 20)) MiB/s"
}
with_us() {
  printf '%-5s ' "$1"
  "${BENCH:-$CARGO_TARGET_DIR/release/examples/openstack}" "$OS_CLIENT_CONFIG_FILE" $cloud "$1" "$work/disk.raw" "$work/scratch"
}
# each comes first once: the disk still writes what the one before has left
for turn in "curl raw qcow2" "raw qcow2 curl" "qcow2 curl raw"; do
  for who in $turn; do
    if [ "$who" = curl ]; then with_curl; else with_us "$who"; fi
  done
done | tee "$work/lines"
median() { # median KIND WORD: of the numbers behind a word
  sed -n "s/^$1 .*$2 \([0-9]*\) MiB.*/\1/p" "$work/lines" | sort -n | sed -n 2p
}
for format in raw qcow2; do
  for way in "up up" "up summed" "down down" "down checked"; do
    read -r ours theirs <<<"$way"
    echo "$format $ours: $(($(median $format $ours) * 100 / $(median curl $theirs))) % of curl's $(median curl $theirs) MiB/s ($theirs)"
  done
done
echo "peak memory: $(grep -v curl "$work/lines" | grep -oE '[0-9]+ MiB(,|$)' | sort -n | tail -1 | tr -d ,)"
