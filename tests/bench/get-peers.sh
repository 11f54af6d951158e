#!/usr/bin/env bash
# Fetches the peers of the benchmark by package name into DIR and prints the variables that name them:
#   eval "$(tests/bench/get-peers.sh DIR)"
# restic 0.18 comes from Debian's trixie suite (its binary is static), borg from PyPI, rustic by cargo install (a build
# of many minutes: RUSTIC=skip leaves it out).
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd); cd "$dir"
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
as_root apt-get install -y -q --no-install-recommends bc time e2fsprogs fdisk libacl1-dev libssl-dev liblz4-dev libzstd-dev libxxhash-dev pkg-config >&2
if [ ! -x restic/usr/bin/restic ]; then
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/\?$' | head -1)
  mkdir -p apt/lists/partial apt/cache/archives/partial
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >apt/sources.list
  private=(-o "Dir::Etc::SourceList=$dir/apt/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$dir/apt/lists" -o "Dir::Cache=$dir/apt/cache")
  apt-get "${private[@]}" update -q >&2; apt-get "${private[@]}" download -q restic >&2; dpkg-deb -x restic_*.deb restic
fi
[ -x venv/bin/borg ] || { python3 -m venv venv; venv/bin/pip install -q borgbackup==1.4.5 >&2; }
[ "${RUSTIC:-}" = skip ] || [ -x rustic/bin/rustic ] || cargo install rustic-rs --version 0.11.4 --locked --root "$dir/rustic" >&2
printf 'export RESTIC=%s BORG=%s' "$dir/restic/usr/bin/restic" "$dir/venv/bin/borg"
[ ! -x rustic/bin/rustic ] || printf ' RUSTIC=%s' "$dir/rustic/bin/rustic"
echo
