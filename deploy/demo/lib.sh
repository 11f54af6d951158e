# What the demo's stories share: how they speak, the production server, and how a guest is asked. Sourced by demo.sh.

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

# Starts the production server from the guest's disk.
start_production() {
  cp --sparse=always "$guest/tiny.qcow2" "$lab/prod/shop.qcow2"
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
}

# Waits for the restored shop at the second site; its console is then in $console.
await_second() {
  console=$(echo "$lab"/dr/disks/instances/*/console.log)
  await "$console" REPLICATE-READY "the restored server"
}

say_times() {
  printf '\n  How long each part took\n'
  printf '       %s\n' "${parts[@]}"
}
