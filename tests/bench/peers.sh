#!/usr/bin/env bash
# Measures `replicate import`, `restore` and `verify` beside restic, rustic and borg, on the disks of make-workload.sh.
#
#   peers.sh IMAGES RESULTS [PEER...]        (no PEER: all that are installed)
#
# One peer at a time, an empty target each time, each image read once beforehand (warm page cache), a round of all peers
# before the next (RUNS=n rounds, medians). Writes RESULTS/peers.csv and RESULTS/peers.md. Wall time means something on an
# idle machine only; CPU seconds and stored bytes hold up better. Tools are named by RESTIC, RUSTIC, BORG, REPLICATE.
set -uo pipefail; export LC_ALL=C
img=$(cd "$1" && pwd); res=$(mkdir -p "$2" && cd "$2" && pwd); shift 2
gen=$img/gen; runs=${RUNS:-1}; work=${SCRATCH:-$res/scratch}; csv=$res/peers.csv
d1=$img/srv1-day1.raw d2=$img/srv1-day2.raw d3=$img/srv1-day3.raw s2=$img/srv2-day1.raw
[ -s "$csv" ] || echo "peer,version,operation,run,wall_s,user_s,sys_s,cpu_s,rss_mib,stored_mib,status" >"$csv"
export RESTIC_PASSWORD=benchmark BORG_PASSPHRASE=benchmark RUSTIC_PASSWORD=benchmark REPLICATE_BENCH_PASS=benchmark
export BORG_BASE_DIR=$work/borg-home BORG_RELOCATED_REPO_ACCESS_IS_OK=yes XDG_CACHE_HOME=$work/cache
have() { command -v "$1" >/dev/null 2>&1; }
warm() { for f in "$@"; do cat "$f" >/dev/null; done; }
fresh() { rm -rf "$work/t"; mkdir -p "$work/t/out" "$work/cache" "$work/src"; sync; }
stored() { find "$store" -type f -printf '%s %b\n' 2>/dev/null | awk '{a+=$1; b+=$2*512} END{printf "%.1f", (b<a?b:a)/1048576}'; }
src() { warm "$1"; ln -f "$1" "$work/src/disk.raw" 2>/dev/null || { rm -f "$work/src/disk.raw"; ln -s "$1" "$work/src/disk.raw"; }; }
m() { # m OPERATION COMMAND: one measured command
  local op=$1 st e u s r; shift
  /usr/bin/time -q -o "$work/time" -f '%e %U %S %M' bash -c "$1" >"$work/log" 2>&1; st=$?
  read -r e u s r < <(tail -1 "$work/time"); [ $st = 0 ] || { echo "--- $peer $op ended with $st"; tail -15 "$work/log"; } >&2
  printf '%s,%s,%s,%s,%s,%s,%s,%.2f,%.0f,%s,%s\n' "$peer" "$ver" "$op" "$run" "$e" "$u" "$s" "$(echo "$u+$s" | bc)" "$(echo "$r/1024" | bc)" "$(stored)" "$([ $st = 0 ] && echo ok || echo "rc$st")" | tee -a "$csv"
}
same() { local r; r=$("$gen" same "$1" "$2") || true; [ "$r" = same ] || { echo "$peer: the restored disk differs" >&2; echo "$peer,$ver,CONTENT-DIFFERS,$run,,,,,,,bad" >>"$csv"; }; }
std() { # std BACKUP RESTORE VERIFY: commands see $in (image), $n (its number) and $outf (the file to restore to)
  export in=$work/src/disk.raw outf=$work/t/out/disk.raw n
  n=1; src "$d1"; m full "$1"; n=2; src "$d2"; m day2 "$1"; n=3; src "$d3"; m day3 "$1"; n=4; src "$s2"; m other-server "$1"
  m restore "$2"; same "$s2" "$outf"; m verify "$3"; rm -f "$work/src/disk.raw"
}
p_restic() { local b=${RESTIC:-restic}; have "$b" || return 0; ver=$($b version | awk '{print $2}'); fresh; store=$work/t/repo; export B="$b -q -r $work/t/repo --cache-dir $work/t/cache"
  $B init >/dev/null 2>&1
  std '$B backup $in' 'mkdir -p $outf.d; $B restore latest --sparse --target $outf.d && mv $(find $outf.d -type f) $outf' '$B check --read-data'; }
p_rustic() { local b=${RUSTIC:-rustic}; have "$b" || return 0; ver=$($b --version | awk '{print $2}'); fresh; store=$work/t/repo; export B="$b -r $work/t/repo --no-progress --cache-dir $work/t/cache --log-level warn"
  $B init >/dev/null 2>&1
  std '$B backup $in' 'mkdir -p $outf.d; $B restore latest $outf.d && mv $(find $outf.d -type f) $outf' '$B check --read-data'; }
p_borg() { local b=${BORG:-borg}; have "$b" || return 0; ver=$($b --version | awk '{print $2}'); fresh; store=$work/t/repo; export B=$b R=$work/t/repo
  $b init -e repokey-blake2 "$R" >/dev/null 2>&1
  std '$B create -C zstd,3 --files-cache disabled $R::{now:%s%f} $in' 'cd $(dirname $outf) && $B extract --sparse $R::$($B list --last 1 --short $R) && mv $(find . -type f) $outf' '$B check --verify-data $R'; }
p_borgfixed() { local b=${BORG:-borg}; have "$b" || return 0; ver=$($b --version | awk '{print $2}')-fixed1M; fresh; store=$work/t/repo; export B=$b R=$work/t/repo
  $b init -e repokey-blake2 "$R" >/dev/null 2>&1
  std '$B create -C zstd,3 --sparse --chunker-params fixed,1048576 --files-cache disabled $R::{now:%s%f} $in' 'cd $(dirname $outf) && $B extract --sparse $R::$($B list --last 1 --short $R) && mv $(find . -type f) $outf' '$B check --verify-data $R'; }
p_replicate() { local b=${REPLICATE:-replicate}; have "$b" || return 0; ver=$($b --version | awk '{print $2}'); fresh; store=$work/t/vault; mkdir -p "$work/t/conf/policies"
  printf 'benchmark\n' >"$work/t/conf/pass"; chmod 600 "$work/t/conf/pass"
  printf 'ledger = "%s"\n[vaults.main]\nurl = "dir:%s"\nrecipients = [{ passphrase-file = "%s" }]\n' "$work/t/ledger" "$store" "$work/t/conf/pass" >"$work/t/conf/replicate.toml"
  export B="$b -c $work/t/conf/replicate.toml"; $B init --vault main >"$work/log" 2>&1 || tail -5 "$work/log" >&2
  std 'case $n in 4) s=srv2;; *) s=srv1;; esac; $B import $in --server $s --to vault:main' '$B restore srv2 --to $outf' '$B verify'
  # what has stayed is made smaller when nothing else is to be done; the packs that it replaces are freed after the grace
  m compact '$B compact --recompress --level 17'; find "$store" -exec touch -d '2 days ago' {} +; m prune '$B prune'
  rm -f "$work/t/out/disk.raw"; m restore-compacted '$B restore srv2 --to $outf'; same "$s2" "$outf"; m verify-compacted '$B verify'; }
mkdir -p "$work"
for run in $(seq "$runs"); do for peer in ${*:-restic rustic borg borgfixed replicate}; do store=$work/none; "p_$peer"; rm -rf "$work/t" "$work/src" "$work/cache" "$work/borg-home"; done; done
python3 - "$csv" >"$res/peers.md" <<'P'
import csv, statistics, sys
rows, order = {}, []
for row in csv.DictReader(open(sys.argv[1])):
    key = (row['peer'], row['version'], row['operation'])
    if key not in rows: order.append(key)
    rows.setdefault(key, []).append(row)
def mid(key, column):
    values = [float(row[column]) for row in rows[key] if row[column]]
    return statistics.median(values) if values else float('nan')
print('| peer | version | operation | runs | wall s | CPU s | peak RSS MiB | stored MiB | status |\n|---|---|---|--:|--:|--:|--:|--:|---|')
for key in order:
    status = ','.join(sorted({row['status'] for row in rows[key]}))
    print(f"| {' | '.join(key)} | {len(rows[key])} | {mid(key,'wall_s'):.1f} | {mid(key,'cpu_s'):.1f} | {mid(key,'rss_mib'):.0f} | {mid(key,'stored_mib'):.0f} | {status} |")
P
cat "$res/peers.md"
