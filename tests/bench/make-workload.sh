#!/usr/bin/env bash
# Deterministic VM-disk workload for backup/replication benchmarks.
#
#   make-workload.sh OUT [SEED] [SCALE]
#
# OUT    folder for the images (needs ~14 GiB free at SCALE 100)
# SEED   integer, default 1
# SCALE  percent of the synthetic parts (database, media, logs), default 100
#
# Makes in OUT (8 GiB virtual, sparse, GPT + ext4, no real data):
#   srv1-day1.raw  a server: Debian packages, database, logs, media, freed residue
#   srv1-day2.raw  one day later (~2-3 % of the allocated blocks changed)
#   srv1-day3.raw  two days later
#   srv2-day1.raw  a similar second server (same base packages, other data)
#   MANIFEST       package versions, sha256 of every image's non-zero blocks, change statistics
#
# No root and no mount needed: file systems are written with mke2fs and debugfs.
# Needs: rustc (or a built `gen` in $GEN), e2fsprogs, fdisk, dpkg-deb, and apt-get
# for the packages (kept in $DEBS for later runs). PKGS=host takes files of this
# machine's /usr instead (no network, but then not comparable between machines).
set -euo pipefail
export LC_ALL=C
OUT=$(mkdir -p "$1" && cd "$1" && pwd); SEED=${2:-1}; SCALE=${3:-100}
HERE=$(cd "$(dirname "$0")" && pwd)
DEBS=${DEBS:-$OUT/debs}; PKGS=${PKGS:-debs}
T=$OUT/.tmp; rm -rf "$T"; mkdir -p "$T" "$DEBS"
export E2FSPROGS_FAKE_TIME=1772323200       # 2026-03-01, for every timestamp in the file systems
GIB=${GIB:-8}; SIZE=${GIB}G; OFF=$((2 * 1048576)); FSBLK=$(( (GIB * 1024 - 4) * 256 ))   # virtual size: GIB=8
GEN=${GEN:-$T/gen}; [ -x "$GEN" ] || rustc -C opt-level=3 --edition 2021 -o "$GEN" "$HERE/workload.rs"
pc() { echo $(( $1 * SCALE / 100 )); }
say() { printf '%5ds %s\n' $SECONDS "$*" >&2; }

BASE="libc6 libc-bin perl-base perl-modules-5.36 libperl5.36 libpython3.11-stdlib libpython3.11-minimal
 bash coreutils util-linux openssl libssl3 curl libcurl4 git vim-runtime locales tzdata libicu72
 openssh-server openssh-client gcc-12 cpp-12 libgcc-12-dev libstdc++-12-dev binutils-x86-64-linux-gnu
 docker.io containerd libllvm14 openjdk-17-jre-headless python3-botocore iso-codes manpages"
ONLY1="postgresql-15 libnginx-mod-http-geoip2 nginx libwebkit2gtk-4.0-37 golang-1.19-go"
ONLY2="mariadb-server-core mariadb-server php8.2-cli libruby3.1 libboost1.74-dev golang-1.19-src samba-libs"
UPGRADE2="libssl3 openssl libc6 curl libcurl4 openssh-server libpython3.11-stdlib"
UPGRADE3="perl-base perl-modules-5.36 bash coreutils util-linux"

batch() { # download all missing packages in one apt-get run
  local p miss=""; for p in "$@"; do ls "$DEBS/${p}"_*.deb >/dev/null 2>&1 || miss="$miss $p"; done
  [ -z "$miss" ] || (cd "$DEBS" && apt-get -qq download $miss 2>/dev/null) ||
    for p in $miss; do (cd "$DEBS" && apt-get -qq download "$p" 2>/dev/null) || echo "no package $p" >&2; done
}
get() { # get PKG: the .deb's path
  ls "$DEBS/$1"_*.deb 2>/dev/null | head -1 || true
}
unpack() { # unpack DIR PKG...
  local d=$1 p f; shift; mkdir -p "$d"
  for p in "$@"; do f=$(get "$p"); [ -n "$f" ] && dpkg-deb -x "$f" "$d" && basename "$f" >>"$T/packages"; done; true
}
dfs() { debugfs -w -f "$1" "$2?offset=$OFF" >"$T/debugfs.log" 2>&1; }
blocksof() { debugfs -R "blocks $2" "$1?offset=$OFF" 2>/dev/null; }

if [ "$SCALE" -lt 50 ]; then   # small runs: fewer packages too
  BASE="libc6 libc-bin perl-base libpython3.11-stdlib bash coreutils openssl libssl3 curl libcurl4 git vim-runtime locales libicu72
 openssh-server gcc-12 libgcc-12-dev docker.io"; ONLY1="postgresql-15 nginx libstdc++-12-dev"; ONLY2="mariadb-server-core libruby3.1 cpp-12"
  UPGRADE2="libssl3 openssl curl libcurl4 bash"; UPGRADE3="perl-base coreutils"
fi
say "packages"
if [ "$PKGS" = debs ]; then
  K=""; [ "$SCALE" -lt 50 ] || K=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/{print $2; exit}')
  batch ${K:-} $BASE $ONLY1 $ONLY2 $UPGRADE2 $UPGRADE3 libpython3.11-stdlib libicu72 libgcc-12-dev vim-runtime cpp-12
  unpack "$T/base" ${K:-} $BASE; unpack "$T/only1" $ONLY1; unpack "$T/only2" $ONLY2
  unpack "$T/up2" $UPGRADE2; unpack "$T/up3" $UPGRADE3
  unpack "$T/overlay" libpython3.11-stdlib libicu72 libgcc-12-dev vim-runtime cpp-12
else
  mkdir -p "$T"/{base,only1,only2,up2,up3,overlay}/usr
  cp -r /usr/lib/gcc /usr/lib/git-core /usr/share/perl /usr/bin "$T/base/usr/" 2>/dev/null || true
  cp -r /usr/lib/x86_64-linux-gnu/perl* "$T/up2/usr/" 2>/dev/null || true
  cp -r /usr/share/vim /usr/share/i18n "$T/overlay/usr/" 2>/dev/null || true
fi
for t in base only1 only2 up2 up3 overlay; do mkdir -p "$T/$t"
  (cd "$T/$t" && for d in bin sbin lib lib64; do [ -d $d ] && [ ! -L $d ] && mkdir -p usr/$d && cp -a $d/. usr/$d/ && rm -rf $d; done; true); done

say "synthetic data"
mk() { # mk N: this server's data in $T/dN
  local n=$1 s=$((SEED * 1000 + $1 * 100)) d=$T/d$1 i
  mkdir -p "$d"/{db,log,media,wal}
  for i in 1 2 3; do "$GEN" db $((s + i)) $(pc 32768) "$d/db/1663$i"; done          # 3 x 256 MiB tables
  for i in 1 2 3 4; do "$GEN" log $((s + 10 + i)) $(pc 16)M "$d/log/syslog.$i"; done
  "$GEN" log $((s + 20)) $(pc 24)M "$d/log/system.journal" $(pc 64)M                   # preallocated, part filled
  for i in 1 2; do "$GEN" rand $((s + 30 + i)) 16M "$d/wal/00000001000000000000000$i"; done
  for i in $(seq 1 20); do                                                              # 20 x 24 MiB, half shared by both servers
    local m=$((s + 40 + i)); [ $i -le 10 ] && m=$((SEED * 1000 + 900 + i))
    "$GEN" rand $m $(pc 24)M "$d/media/asset$i.bin"; done
}
mk 1; mk 2

build() { # build N NAME UUID SRCTREES...
  local n=$1 img=$OUT/$2 uuid=$3; say "image $2"; shift 3
  rm -f "$img"; truncate -s $SIZE "$img"
  "$GEN" rand $((SEED + 7)) 440 "$T/boot"; dd if="$T/boot" of="$img" conv=notrunc status=none
  printf 'label: gpt\nlabel-id: %s\nfirst-lba: 2048\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649, uuid=%s\nstart=4096, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=%s\n' \
    "${uuid/%?/a}" "${uuid/%?/b}" "${uuid/%?/c}" | sfdisk -q "$img"
  "$GEN" rand $((SEED + 8)) 256K "$T/core"; dd if="$T/core" of="$img" bs=1M seek=1 conv=notrunc status=none
  mke2fs -q -F -t ext4 -b 4096 -U "$uuid" -E "offset=$OFF,hash_seed=$uuid,lazy_itable_init=1,nodiscard" -L root "$img" "$FSBLK"
  { local t dst
    for t in "$@"; do dst=${t#*=}; "$GEN" tree-script "${t%%=*}" "$dst"; done
    # a package cache, deleted again at the end: freed blocks that still hold data
    echo 'mkdir /var/cache/apt'; echo 'mkdir /var/cache/apt/archives'; echo 'cd /var/cache/apt/archives'
    local f; for f in $(ls "$DEBS" | grep -E '^(docker.io|containerd|libllvm14|openjdk)' | sort); do
      echo "write \"$DEBS/$f\" \"$f\""; done
    for f in $(ls "$DEBS" | grep -E '^(docker.io|containerd|libllvm14|openjdk)' | sort); do echo "rm \"$f\""; done
  } >"$T/script"
  dfs "$T/script" "$img"
}
mkdir -p "$T/skel/var/cache" "$T/skel/var/lib" "$T/skel/srv" "$T/skel/home"
build 1 srv1-day1.raw 11111111-2222-4333-8444-55555555555$((SEED % 10)) "$T/skel=" "$T/base=" "$T/overlay=/var/lib/docker/overlay2/4f1c/diff" \
  "$T/only1=" "$T/d1/log=/var/log" "$T/d1/db=/var/lib/postgresql/15/main/base/16384" "$T/d1/wal=/var/lib/postgresql/15/main/pg_wal" "$T/d1/media=/srv/media"
build 2 srv2-day1.raw 21111111-2222-4333-8444-55555555555$((SEED % 10)) "$T/skel=" "$T/only2=" "$T/base=" \
  "$T/d2/log=/var/log" "$T/d2/db=/var/lib/mysql/shop" "$T/d2/wal=/var/lib/mysql/redo" "$T/d2/media=/srv/media" "$T/overlay=/var/lib/docker/overlay2/77aa/diff"

day() { # day D FROM TO UPTREE
  local D=$1 from=$OUT/$2 to=$OUT/$3 up=$4 s=$((SEED * 1000 + 500 + $1 * 10)) i
  say "image $3"; cp --sparse=always "$from" "$to"
  local db=/var/lib/postgresql/15/main
  { # package upgrade: every file of the upgraded packages is written anew and the old one removed
    "$GEN" rebuild $s "$up" "$T/new$D"
    # log rotation, media churn, a new table
    "$GEN" log $((s + 1)) $(pc 12)M "$T/syslog.new$D"; "$GEN" rand $((s + 2)) $(pc 14)M "$T/media.new$D"; "$GEN" db $((s + 3)) $(pc 768) "$T/db.new$D"
    echo "cd /var/log"; echo "rm syslog.$((5 - D + 1))"; echo "write \"$T/syslog.new$D\" syslog.day$D"
    echo "cd /srv/media"; echo "rm asset$((D * 3)).bin"; echo "write \"$T/media.new$D\" new$D.bin"
    echo "cd $db/base/16384"; echo "write \"$T/db.new$D\" 1700$D"
  } >"$T/script"
  dfs "$T/script" "$to"
  # in-place writes: database pages, WAL, journal file, ext4 journal
  for i in 1 2 3; do blocksof "$to" $db/base/16384/1663$i >"$T/b"; "$GEN" db-mutate $((s + i)) $(pc 700) "$to" $OFF "$T/b" 2>/dev/null; done
  blocksof "$to" $db/pg_wal/000000010000000000000001 >"$T/b"; "$GEN" fill $((s + 4)) wal $(((D - 2) * 6))M 6M "$to" $OFF "$T/b"
  blocksof "$to" /var/log/system.journal >"$T/b"; "$GEN" fill $((s + 5)) log $(pc $((24 + (D - 2) * 8)))M $(pc 8)M "$to" $OFF "$T/b"
  blocksof "$to" "<8>" >"$T/b"; "$GEN" fill $((s + 6)) journal $(((D - 1) * 8))M 8M "$to" $OFF "$T/b"
}
day 2 srv1-day1.raw srv1-day2.raw "$T/up2"
day 3 srv1-day2.raw srv1-day3.raw "$T/up3"

say "manifest"
{ echo "seed $SEED scale $SCALE"; sort -u "$T/packages" 2>/dev/null || true
  cd "$OUT"; for i in srv1-day1 srv1-day2 srv1-day3 srv2-day1; do
    echo "image $i virtual=$(stat -c %s $i.raw) allocated=$(( $(stat -c %b $i.raw) * 512 )) sha256nz=$("$GEN" nz $i.raw | sha256sum | cut -c1-64)"; done
  echo "# day1 -> day2"; "$GEN" diff srv1-day1.raw srv1-day2.raw; echo "# day2 -> day3"; "$GEN" diff srv1-day2.raw srv1-day3.raw
  [ "${STATS:-1}" = 0 ] || { echo "# fixed-block dedup, in this order"; "$GEN" uniq srv1-day1.raw srv1-day2.raw srv1-day3.raw srv2-day1.raw; }
} >"$OUT/MANIFEST"
cp "$GEN" "$OUT/gen" 2>/dev/null || true; [ "${KEEP:-}" ] || rm -rf "$T"
say "done"; grep -v -E '_(amd64|all)\.deb' "$OUT/MANIFEST" >&2 || true
