# The story on one host: a server is captured while it runs, twice; its host is lost; it comes back from the vault at
# another site, with its data; and a drill proves that it could be done again. Sourced by demo.sh.

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

step "The production server: a Debian guest with a shop that takes ten orders a second"
start=$(now)
start_production
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
await_second
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

say_times
