# What install.sh, up.sh, down.sh and judge.sh share. Sourced, never run.
#
# The cloud is Debian's own OpenStack packages (release "Zed" on Debian 12): no container, no message broker, no
# database server, no systemd. Everything that it keeps lies in $OSLAB, everything that it listens on is 127.0.0.1.
#   tier 1  Keystone, and a Glance in each of two regions
#   tier 2  + Placement, Neutron (API only) and Nova (libvirt, QEMU) in each region
#   tier 3  + Cinder (volumes as files, snapshots, backups) in each region
set -euo pipefail
CALLER_PATH=$PATH
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 PYTHONNOUSERSITE=1
unset PYTHONPATH PYTHONHOME http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OSLAB=${OSLAB:-${REPLICATE_CACHE:-$HOME/.cache/replicate}/openstack}
PORT=${OSLAB_PORT:-25000} # the first of 32 ports, below those that the kernel hands out to clients
PASS=oslab
KEYSTONE=http://127.0.0.1:$PORT/v3
PROJECTS=${OSLAB_PROJECTS:-alice bob services source volumes killed target relay crash twice live increment restore frozen}
RULES=$HERE/../../deploy/iam/openstack/access-rules.json
export OS_CLIENT_CONFIG_FILE=$OSLAB/clouds.yaml
PY=/usr/bin/python3
mkdir -p "$OSLAB"/{etc,log,run,lock,bin}

say() { printf 'openstack: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
# What cannot be had on this machine is no failure of the project: the caller says so loudly.
cannot() { printf 'SKIPPED: no OpenStack here: %s\n' "$*"; exit 77; }

# Root by sudo where we are not; the environment that matters goes along.
root_or_sudo() {
  [ "$(id -u)" != 0 ] || return 0
  sudo -n true 2>/dev/null || cannot "neither root nor sudo"
  exec sudo -n env OSLAB="$OSLAB" OSLAB_NO_INSTALL="${OSLAB_NO_INSTALL:-}" OSLAB_PORT="$PORT" OSLAB_PROJECTS="$PROJECTS" "$HERE/$(basename "$0")" "$@"
}

# One region's names, folders and ports. Services of region two differ from those of region one in nothing else.
region() { # region one|two
  R=$1 D=$OSLAB/$1
  case $1 in one) REGION=RegionOne BASE=$((PORT + 10)) ;; two) REGION=RegionTwo BASE=$((PORT + 20)) ;; esac
  GLANCE=$BASE PLACEMENT=$((BASE + 1)) NEUTRON=$((BASE + 2)) NOVA=$((BASE + 3)) CINDER=$((BASE + 4))
  mkdir -p "$D/etc"
}
database() { printf 'connection = sqlite:///%s?timeout=60&check_same_thread=false\nsqlite_synchronous = false' "$1"; }
wal() { $PY -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute("pragma journal_mode=wal")' "$1"; }
privsep() { # privsep CONF SECTION...: how a service gets its privileged helper
  local conf=$1; shift
  printf '[%s]\nhelper_command = privsep-helper --config-file '"$conf"'\n' "$@"
}
signin() { # signin SECTION [MORE]: how a service signs in to Keystone
  cat <<C
[$1]
auth_type = password
auth_url = $KEYSTONE
www_authenticate_uri = $KEYSTONE
username = svc
password = $PASS
project_name = service
user_domain_id = default
project_domain_id = default
region_name = $REGION
${2:-}
C
}

# once NAME CMD...: runs CMD unless it has succeeded before.
once() {
  local mark=$OSLAB/run/$1.done; shift
  [ -e "$mark" ] && return 0
  "$@" >>"$OSLAB/log/init.log" 2>&1 ||
    { tail -n 30 "$OSLAB/log/init.log" >&2; die "first-time set-up of $(basename "$mark" .done) went wrong"; }
  : >"$mark"
}
# schema WHAT CMD...: CMD makes WHAT for region one, a database or a folder of them; region two begins with a copy, since
# making it takes a minute.
schema() {
  local kept=$OSLAB/schema/$1 what=$D/$1 file; shift
  mkdir -p "$(dirname "$kept")"
  if [ -e "$kept" ]; then
    cp -rT "$kept" "$what"
  else
    "$@" && for file in $(find "$what" -name '*.db'); do wal "$file"; done && cp -rT "$what" "$kept"
  fi
}
backup() {
  $PY -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))' "$1" "$2"
}
# entry MODULE PROGRAM ARGS...: the console entry point of a Debian python3-* library, whose daemon package is not
# installed.
entry() {
  local module=$1 program=$2; shift 2
  $PY -c "import sys; sys.argv[0]='$program'; from $module import main; sys.exit(main())" "$@"
}
# A process lives if it is there, is no zombie, and is the one that we started.
alive() {
  local pid
  pid=$(cat "$OSLAB/run/$1.pid" 2>/dev/null) && [ -n "$pid" ] && readlink "/proc/$pid/exe" >/dev/null 2>&1 &&
    grep -qs "$OSLAB" "/proc/$pid/environ" "/proc/$pid/cmdline"
}
# start NAME CMD...: in the background, a process group of its own, its output in log/NAME.log.
start() {
  local name=$1; shift
  alive "$name" && return 0
  PATH=$OSLAB/bin:$PATH setsid nohup "$@" >>"$OSLAB/log/$name.log" 2>&1 </dev/null 9>&- &
  echo $! >"$OSLAB/run/$name.pid"
}
# start_wsgi NAME PORT THREADS FILE VARIABLE=VALUE...
start_wsgi() {
  local name=$1 port=$2 threads=$3 file=$4; shift 4
  start "$name" env "$@" uwsgi_python3 --http-socket "127.0.0.1:$port" --master --die-on-term --processes 1 \
    --threads "$threads" --enable-threads --lazy-apps --need-app --disable-logging --buffer-size 65535 \
    --post-buffering 1048576 --socket-timeout 120 --add-header 'Connection: close' --wsgi-file "$file"
}
# answers NAME URL: waits until it says anything but a server error.
answers() {
  local code _
  for _ in $(seq 480); do
    code=$(curl -s -o /dev/null -m 5 -w '%{http_code}' "$2" || true)
    [ "$code" -ge 200 ] && [ "$code" -lt 500 ] && return 0
    alive "$1" || { tail -n 20 "$OSLAB/log/$1.log" >&2; die "$1 has stopped"; }
    sleep 0.25
  done
  tail -n 20 "$OSLAB/log/$1.log" >&2
  die "$1 does not answer at $2"
}
# comes SERVICE WHY DB QUERY: waits until the query of the service's database gives something else than 0.
comes() {
  local _
  for _ in $(seq 240); do
    $PY -c 'import sqlite3, sys; sys.exit(not sqlite3.connect(sys.argv[1], timeout=60).execute(sys.argv[2]).fetchone()[0])' \
      "$3" "$4" && return 0
    alive "$1" || break
    sleep 0.5
  done
  tail -n 20 "$OSLAB/log/$1.log" >&2
  die "$2"
}

# The state of the cloud: its databases, and what its services keep in files. Saved once everything has answered,
# so that a later start can begin with an empty cloud in a second.
databases() { (cd "$OSLAB" && find keystone.db one two -name '*.db'); }
save_state() { # save_state TIER
  local name
  for name in $(databases); do
    mkdir -p "$(dirname "$OSLAB/saved/$name")"
    backup "$OSLAB/$name" "$OSLAB/saved/$name"
  done
  echo "$1" >"$OSLAB/saved/tier"
}
restore_state() {
  local name
  [ -e "$OSLAB/saved/tier" ] || { forget; return; }
  for name in $(databases); do rm -f "$OSLAB/$name"{,-wal,-shm}; done
  remove "$OSLAB"/{one,two}/{glance,nova/instances,libvirt,cinder/{conversion,backup}} "$OSLAB"/{share.img,log/*.log}
  cp -r "$OSLAB"/saved/* "$OSLAB/"
  rm -f "$OSLAB/tier"
}
forget() {
  [ -d "$OSLAB/run" ] && [ -d "$OSLAB/lock" ] || die "$OSLAB is no folder of the test cloud"
  remove "$OSLAB"/{one,two,schema,saved,etc,run,py,bin,mnt,share,share.img,fernet-keys,credential-keys,keystone.db*,key,clouds.yaml}
  mkdir -p "$OSLAB"/{etc,run,bin}
}
remove() {
  ! grep -qs " $OSLAB/" /proc/mounts || die "something is mounted below $OSLAB"
  rm -rf --one-file-system "$@"
}
