#!/usr/bin/env bash
# Shows the whole way on one machine, with a real server: capture it while it runs, twice; lose its host; get it back
# from the vault at another site, with its data; prove that it could be done again.
#
# Usage: deploy/demo.sh [--keep]        (as root, or as any user once deploy/install-packages.sh was run)
#   --keep   leave the demo's folder, with its configuration, for looking around
#
# Needs Rust and a Debian-like system; takes about two minutes after the build, without KVM too.
# REPLICATE_BIN=FILE uses a program that is built already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

keep=
case ${1:-} in
  --keep) keep=1 ;;
  '') ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac

export REPLICATE_CACHE=${REPLICATE_CACHE:-$HOME/.cache/replicate}
target=${CARGO_TARGET_DIR:-$REPLICATE_CACHE/target}
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
log=$(mktemp /tmp/replicate-demo.log.XXXXXX)

die() { printf '\ndemo: %s\n' "$*" >&2; exit 1; }
quietly() { "$@" >>"$log" 2>&1 || { tail -30 "$log" >&2; die "cannot run $1 (everything it said is in $log)"; }; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }
say() { printf '     %s\n' "$*"; }

step_number=0
step() { step_number=$((step_number + 1)); printf '\n %d.  %s\n' "$step_number" "$*"; }

# Shows a command and runs it, its words set in.
show() {
  printf '     $ %s\n' "$*"
  "$@" 2>>"$log" | sed 's/^/       /' || { tail -20 "$log" >&2; die "the command above has failed (log: $log)"; }
}

parts=()
took() { parts+=("$(printf '%-44s %7.1f s' "$1" "$2")"); }

printf 'replicate: a server is lost and comes back\n\n'
start=$(now)
say "installing what is missing, building the program and a small Debian server (the first time takes minutes) ..."
quietly deploy/install-packages.sh
if [ -z "${REPLICATE_BIN:-}" ]; then
  CARGO_TARGET_DIR=$target quietly cargo build --release --locked -p replicate --no-default-features
  REPLICATE_BIN=$target/release/replicate
fi
guest=$(tests/guest/build.sh 2>>"$log") || { tail -5 "$log" >&2; die "cannot build the guest"; }
say "ready after $(since "$start") s"

lab=$(mktemp -d /tmp/replicate-demo.XXXXXX)
mkdir -p "$lab"/{bin,prod,dr/run,dr/disks,vault,policies}
ln -s "$(realpath "$REPLICATE_BIN")" "$lab/bin/replicate"
PATH=$lab/bin:$PATH
export REPLICATE_CONFIG=$lab/replicate.toml
production=

cleanup() {
  local file pid
  [ -z "$production" ] || kill -9 "$production" 2>/dev/null || true
  for file in "$lab"/dr/disks/instances/*/pid; do
    [ -e "$file" ] || continue
    pid=$(cat "$file")
    # only if it is still the server of this demo
    if tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF "$file"; then kill -9 "$pid" 2>/dev/null || true; fi
  done
  [ -n "$keep" ] || rm -rf "$lab"
}
trap cleanup EXIT

cat > "$lab/replicate.toml" <<CONFIG
ledger = "$lab/ledger"

[sites.production]
kind = "qemu"
sockets = "$lab/prod/*.qmp"
disks = "$lab/prod"

[sites.second]
kind = "qemu"
sockets = "$lab/dr/run/*.qmp"
disks = "$lab/dr/disks"

[vaults.main]
url = "dir:$lab/vault"
recipients = [{ passphrase-file = "$lab/passphrase" }]
CONFIG
cat > "$lab/policies/shop.toml" <<'POLICY'
select = { site = "production", servers = ["shop"] }
schedule = { cron = "0 3 * * *", timezone = "UTC" }
capture = { consistency = "filesystem" }
replicate = [{ to = "vault:main" }]
keep = { last = 3, daily = 7 }
objectives = { rpo = "24h", rto = "10m", proof = "7d" }

[drill]
site = "second"
probes = [
  { kind = "console", text = "REPLICATE-READY" },
  { kind = "http", port = 80, path = "/cgi-bin/orders", text = "broken=0" },
]
POLICY
head -c 24 /dev/urandom | base64 > "$lab/passphrase"
chmod 600 "$lab/passphrase"

# Waits for a line of a console.
await() {
  local file=$1 text=$2 what=$3 tries=0
  until grep -q "$text" "$file" 2>/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 1200 ] || { tail -5 "$file" >&2; die "$what has not come up within 5 minutes"; }
    sleep 0.25
  done
}

# Runs a command inside a guest, through its agent.
inside() {
  python3 - "$@" <<'PYTHON'
import base64, json, socket, sys, time
agent = socket.socket(socket.AF_UNIX)
agent.settimeout(60)
agent.connect(sys.argv[1])
stream = agent.makefile("rwb")
def call(name, **arguments):
    stream.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
    stream.flush()
    return json.loads(stream.readline().lstrip(b"\xff"))["return"]
call("guest-sync", id=1)
pid = call("guest-exec", path=sys.argv[2], arg=sys.argv[3:], **{"capture-output": True})["pid"]
while not (state := call("guest-exec-status", pid=pid))["exited"]:
    time.sleep(0.1)
print(base64.b64decode(state.get("out-data", "")).decode().strip())
sys.exit(state["exitcode"])
PYTHON
}
orders() { inside "$1" /usr/bin/orders check | sed -n 's/^orders=\([0-9]*\) broken=\([0-9]*\)$/\1 \2/p'; }

step "The production server: a Debian guest with a shop that takes ten orders a second"
cp --sparse=always "$guest/tiny.qcow2" "$lab/prod/shop.qcow2"
start=$(now)
qemu-system-x86_64 -name shop -machine q35 -accel tcg -m 256 -nodefaults -display none \
  -blockdev driver=qcow2,node-name=disk0,file.driver=file,file.filename="$lab/prod/shop.qcow2" \
  -device virtio-blk-pci,id=vda,drive=disk0,bootindex=0 \
  -netdev user,id=net0 -device virtio-net-pci,netdev=net0,mac=52:54:00:5e:ed:01 \
  -device virtio-serial-pci -chardev socket,id=agent,path="$lab/prod/shop.agent",server=on,wait=off \
  -device virtserialport,chardev=agent,name=org.qemu.guest_agent.0 \
  -qmp unix:"$lab/prod/shop.qmp",server=on,wait=off -serial file:"$lab/prod/console" >>"$log" 2>&1 &
production=$!
printf 'tags = { service = "shop" }\n' > "$lab/prod/shop.toml"
await "$lab/prod/console" REPLICATE-READY "the production server"
took "start the production server" "$(since "$start")"
show replicate servers production

step "A vault, and the first capture, while the shop goes on selling"
show replicate init --vault main
start=$(now)
show replicate --quiet run shop
took "first capture into the vault" "$(since "$start")"

step "Some seconds and orders later, the second capture: only what changed is moved"
sleep 5
read -r captured broken < <(orders "$lab/prod/shop.agent") || die "the shop does not answer"
start=$(now)
show replicate --quiet run shop
took "second capture, changes only" "$(since "$start")"
sleep 2
read -r last broken < <(orders "$lab/prod/shop.agent") || die "the shop does not answer"
say "the shop has taken $last orders by now, $broken of them broken"

step "Disaster: the host is lost, and the disk with it"
kill -9 "$production"
wait "$production" 2>/dev/null || true
production=
rm -f "$lab"/prod/shop.*
say "the server is killed and its disk deleted: nothing of it is left in $lab/prod"
show replicate points shop

step "Restore from the latest replica, to another site, and boot"
start=$(now)
show replicate --quiet restore shop --to second
took "restore to the second site" "$(since "$start")"
console=$(echo "$lab"/dr/disks/instances/*/console.log)
await "$console" REPLICATE-READY "the restored server"
took "from the command to a booted server" "$(since "$start")"
say "$(grep -a -m1 REPLICATE-READY "$console" | tr -d '\r')"

step "Is the data there?"
read -r back broken < <(orders "$lab/dr/run/shop.agent") || die "the restored shop does not answer"
say "$(printf 'orders when the second capture began %6d' "$captured")"
say "$(printf 'orders when the host was lost        %6d' "$last")  (those after the capture are the price: the RPO)"
say "$(printf 'orders in the restored shop          %6d' "$back")  (each there once and whole, and it takes new ones again)"
[ "$broken" = 0 ] && [ "$back" -ge "$captured" ] || die "the restored data is not whole: $broken orders are broken"

step "Prove it again, any day: a drill boots the point on an isolated network, checks it, signs a proof, destroys it"
start=$(now)
show replicate --quiet restore shop --drill
took "drill" "$(since "$start")"
say "and what the administrator sees by now: the server is missing at its site, its points are proven"
printf '     $ replicate status\n'
replicate status 2>>"$log" | sed 's/^/       /' || true # it ends with 1: there is a problem, and it says which

printf '\n  How long each part took\n'
printf '       %s\n' "${parts[@]}"
if [ -n "$keep" ]; then printf '\n     the demo is still there: export REPLICATE_CONFIG=%s\n' "$REPLICATE_CONFIG"; fi
rm -f "$log"
