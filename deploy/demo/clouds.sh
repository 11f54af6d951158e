# The story of the clouds: a running server becomes a bootable image at AWS, is captured there while it runs and becomes
# one at Azure, and comes home from there; each move after the first sends what changed. Sourced by demo.sh.

step "Two clouds, simulated on this machine; their instances are real guests"
"$CLOUDSIM_BIN" --data "$lab/cloud" --calm >"$lab/greeting" 2>>"$log" &
simulator=$!
tries=0
until [ -s "$lab/greeting" ]; do
  tries=$((tries + 1))
  if [ $tries -ge 120 ]; then die "the simulator does not start (log: $log)"; fi
  sleep 0.25
done
cloud() { jq -r "$1" "$lab/greeting"; }
AWS_ACCESS_KEY_ID=$(cloud '.accounts[0]["access-key"]') AWS_SECRET_ACCESS_KEY=$(cloud '.accounts[0]["secret-key"]')
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
cloud .azure.secret > "$lab/azure-secret"
chmod 600 "$lab/azure-secret"
subnets=/subscriptions/s/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/n/subnets

cat > "$lab/replicate.toml" <<CONFIG
ledger = "$lab/ledger"

[sites.production]
kind = "qemu"
sockets = "$lab/prod/*.qmp"
disks = "$lab/prod"

[sites.aws-eu]
kind = "aws"
region = "eu-west-1"
scratch = "$lab/scratch"
endpoints = $(cloud '.regions["eu-west-1"] | "{ ec2 = \"\(.ec2)\", ebs = \"\(.ebs)\", sts = \"\(.sts)\" }"')
[sites.aws-eu.restore]
instance-type = "t3.micro"

[sites.azure-we]
kind = "azure"
subscription = "$(cloud .azure.subscription)"
resource-group = "prod"
location = "westeurope"
tenant = "$(cloud .azure.tenant)"
client = "$(cloud .azure.client)"
secret = "file:$lab/azure-secret"
arm-endpoint = "$(cloud .azure.arm)"
login-endpoint = "$(cloud .azure.login)"
[sites.azure-we.restore]
size = "Standard_B1s"
subnet = "$subnets/servers"
drill-subnet = "$subnets/drills"

[sites.second]
kind = "qemu"
sockets = "$lab/dr/run/*.qmp"
disks = "$lab/dr/disks"
CONFIG
# From one place to the next, as a policy.
policy() {
  cat > "$lab/policies/$1.toml" <<POLICY
select = { site = "$2", servers = ["shop"] }
schedule = { cron = "0 * * * *" }
replicate = [{ to = "$3" }]
keep = { last = 2 }
POLICY
}
policy to-aws production aws-eu
policy to-azure aws-eu azure-we
policy home azure-we second
show replicate check

consoles() { find "$lab/cloud" -name console.log | sort; }

# Waits for the instance that the last hop has started: those of earlier hops go on talking.
await_instance() {
  local new
  new=$(consoles | grep -vxFf "$lab/known" | head -1)
  [ -n "$new" ] || die "$1 has started no instance"
  await "$new" REPLICATE-READY "the instance at $1"
  say "its console: $(grep -a -m1 REPLICATE-READY "$new" | tr -d '\r')"
}

# One hop: a run of a policy, a restore, a boot.
hop() {
  local policy=$1 site=$2 name=$3
  start=$(now)
  show replicate --quiet run "$policy"
  took "capture, and an image at $name" "$(since "$start")"
  consoles > "$lab/known"
  start=$(now)
  show replicate --quiet restore shop --to "$site"
}

step "The production server: a Debian guest with a shop that takes ten orders a second"
start=$(now)
start_production
took "start the production server" "$(since "$start")"

step "To AWS: captured while it runs, an AMI made of its blocks, an instance of it"
show replicate --quiet run to-aws
sleep 3
say "some orders later the same again: what changed is sent, on top of the first image"
hop to-aws aws-eu AWS
await_instance AWS
took "launch and boot at AWS" "$(since "$start")"
read -r last broken < <(orders "$lab/prod/shop.agent") || die "the shop does not answer"
kill -9 "$production"
wait "$production" 2>/dev/null || true
production=
rm -f "$lab"/prod/shop.*
say "the host in production is given up; its shop had taken $last orders"

step "To Azure: the running instance is captured at AWS"
hop to-azure azure-we Azure
await_instance Azure
took "launch and boot at Azure" "$(since "$start")"

step "And home: the running machine is captured at Azure"
hop home second "a host of our own"
await_second
took "launch and boot at home" "$(since "$start")"
say "its console: $(grep -a -m1 REPLICATE-READY "$console" | tr -d '\r')"
read -r back broken < <(orders "$lab/dr/run/shop.agent") || die "the restored shop does not answer"
say "the shop has $back orders, $broken of them broken"
[ "$broken" = 0 ] || die "the data is not whole: $broken orders are broken"
show replicate points shop
say_times
