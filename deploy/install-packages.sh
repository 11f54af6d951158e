#!/usr/bin/env bash
# Installs what the tests and the demo need beside Rust: QEMU, OVMF, the tools that build the test guest, and Python for
# the S3 server and the independent vault reader of the tests (which fetch their own, pinned, packages once).
# Safe to repeat: does nothing when all is there.
#
# Usage: deploy/install-packages.sh       (as root, or as a user who may sudo)
#
# Debian 12 enables a QEMU of 2022; where qemu-utils from its backports suite is already installed the two would not
# fit together, and live capture was proved on 10.0, so there QEMU comes from backports.
set -euo pipefail

packages=(qemu-system-x86 qemu-utils ovmf gdisk dosfstools mtools e2fsprogs xfsprogs grub-pc-bin grub-efi-amd64-bin grub-common
  busybox-static cpio kmod binutils zstd jq curl python3 python3-pip python3-venv build-essential)

say() { printf 'install: %s\n' "$*" >&2; }
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
  say "installing ${missing[*]}"
  command -v apt-get >/dev/null || { say "this is no Debian: install the packages above by hand"; exit 1; }
  if ! { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
    say "cannot install packages: run this script as root once"
    exit 1
  fi
  as_root apt-get update -q >/dev/null
  . /etc/os-release
  suite=()
  if [ "${VERSION_CODENAME:-}" = bookworm ]; then
    backports=/etc/apt/sources.list.d/replicate-backports.list
    if ! apt-cache policy | grep -q "n=bookworm-backports"; then
      # the mirror that this machine already uses, whatever it is
      mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        awk '$2 == "bookworm" {print $1; exit}')
      [ -n "$mirror" ] || { say "cannot tell this machine's Debian mirror"; exit 1; }
      echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror%/} bookworm-backports main" |
        as_root tee "$backports" >/dev/null
      as_root apt-get update -q >/dev/null
    fi
    suite=(-t bookworm-backports)
  fi
  qemu=() other=()
  for package in "${missing[@]}"; do
    case $package in qemu-*) qemu+=("$package") ;; *) other+=("$package") ;; esac
  done
  install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends)
  if [ ${#qemu[@]} -gt 0 ]; then as_root "${install[@]}" "${suite[@]}" "${qemu[@]}" >/dev/null; fi
  if [ ${#other[@]} -gt 0 ]; then as_root "${install[@]}" "${other[@]}" >/dev/null; fi
fi

say "everything is there: $(qemu-system-x86_64 --version | head -1)"
