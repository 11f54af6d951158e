# Freezes the guest's file systems for a while. Before it stand `token=`, `delay=` and `hold=`; see freeze.rs.
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 077
place=/run/replicate-freeze/$token
fail() { echo "$1" >&2; exit 1; }
told() {
  tries=0
  until [ -s "$place/armed" ]; do
    [ -e "$place/done" ] && fail "it was called off"
    [ "$tries" -lt 10 ] || fail "another command began this freeze and did not get far"
    tries=$((tries + 1))
    sleep 1
  done
  read -r armed < "$place/armed"
  echo "replicate-freeze armed=$armed"
}

[ -d "$place" ] && { told; exit; }
for tool in fsfreeze setsid sync sleep; do
  command -v "$tool" > /dev/null || fail "there is no $tool in the guest"
done
# only what lies on a block device is frozen, each file system once, the latest mount first and so the root last
memory= devices=" "
set --
while read -r _ _ _ _ point _ rest; do
  rest=" $rest"
  rest=${rest#* - }
  type=${rest%% *} rest=${rest#* }
  device=${rest%% *} options=${rest#* }
  [ "$point $type" = "/run tmpfs" ] && memory=yes
  case $options in rw | rw,*) ;; *) continue ;; esac
  case $type in zfs | bcachefs) fail "file systems of type $type cannot be frozen" ;; esac
  # an EFI system partition: it knows no freeze, and is written at an update of the boot loader only
  case $type in vfat | msdos) continue ;; esac
  case $device in /dev/*) ;; *) continue ;; esac
  case $devices in *" $device "*) continue ;; esac
  devices="$devices$device "
  set -- "$(printf '%b' "$point")" "$@"
done < /proc/self/mountinfo
[ "$memory" ] || fail "/run is not in memory"
[ $# -gt 0 ] || fail "there is no file system to freeze"
for old in /run/replicate-freeze/*/done; do
  [ -e "$old" ] && rm -rf "${old%/done}"
done
mkdir -p /run/replicate-freeze
mkdir "$place" 2> /dev/null || { told; exit; }

# Freezes and thaws, in a session of its own. While anything is frozen it writes into /run and nowhere else, and starts
# programs, which are read and not written: nothing that it waits for waits for the thaw. All are thawed at once, because
# one may lie in a file of another.
# shellcheck disable=SC2016 # a script of its own
worker='
place=$1 delay=$2 hold=$3
shift 3
trap "" HUP INT TERM PIPE
cd /
echo -1000 > /proc/self/oom_score_adj
freeze() {
  at=0
  for point do
    [ -e "$place/stop" ] && return
    at=$((at + 1))
    # what is not noted is not frozen: it would not be thawed
    echo "$at" > "$place/tried" || return
    if ! fsfreeze --freeze "$point" 2> "$place/said"; then
      echo $((at - 1)) > "$place/tried"
      read -r said < "$place/said"
      echo "${said:-cannot freeze $point}" > "$place/why"
      return
    fi
  done
  read -r now _ < /proc/uptime
  echo "$now" > "$place/frozen"
}
thaw() {
  tried= at=0 thaws= all=yes
  read -r tried < "$place/tried"
  case $tried in "" | *[!0-9]*) tried=$# ;; esac
  for point do
    at=$((at + 1))
    [ "$at" -le "$tried" ] || break
    fsfreeze --unfreeze "$point" &
    thaws="$thaws $!"
  done
  for one in $thaws; do wait "$one" || all=; done
}
sleep "$delay" &
timer=$!
sync
wait "$timer"
if [ -e "$place/end" ]; then
  echo "why=it was called off" > "$place/done"
  exit
fi
echo 0 > "$place/tried" || exit
freeze "$@" &
freezer=$!
read -r now _ < /proc/uptime
until=$((${now%.*} + hold))
while [ "${now%.*}" -lt "$until" ] && [ ! -e "$place/end" ] && [ ! -s "$place/why" ]; do
  sleep 1 || break
  read -r now _ < /proc/uptime
done
# no `:` here: a shell ends where the redirection of one fails
echo > "$place/stop"
frozen= why=
read -r frozen < "$place/frozen"
read -r held _ < /proc/uptime
thaw "$@"
if [ -z "$frozen" ]; then
  # a freeze that is under way comes to pass, whoever is killed for it
  wait "$freezer"
  thaw "$@"
  read -r why < "$place/why"
  echo "why=${why:-it did not get all file systems frozen in $hold s}" > "$place/done"
elif [ "$all" ]; then
  echo "frozen=$frozen held=$held" > "$place/done"
else
  echo "why=somebody else had thawed a file system" > "$place/done"
fi
'
read -r armed _ < /proc/uptime
setsid sh -c "$worker" replicate-freeze "$place" "$delay" "$hold" "$@" < /dev/null > /dev/null 2>&1 &
echo "$armed" > "$place/armed"
told
