#!/usr/bin/env bash
# Fetches the QEMU of Debian 12 (7.2) beside the installed one, once, and prints the path of a program that runs it. Nothing is installed:
# the packages are unpacked into ${REPLICATE_CACHE:-~/.cache/replicate}/qemu-7.2, and use the libraries that the installed QEMU needs too.
#
# Usage: tests/guest/older-qemu.sh
set -euo pipefail

suite=bookworm
cache=${REPLICATE_CACHE:-$HOME/.cache/replicate}/qemu-7.2
program=$cache/qemu

if [ ! -d "$cache/root" ]; then
  command -v apt-get >/dev/null || { echo "this is no Debian" >&2; exit 1; }
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.fetch.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  apt-get download -q "qemu-system-x86/$suite" "qemu-system-common/$suite" "qemu-system-data/$suite" >/dev/null 2>apt.log ||
    { tail -1 apt.log >&2; exit 1; }
  for package in *.deb; do dpkg -x "$package" root; done
  binary=root/usr/bin/qemu-system-x86_64
  version=$($binary --version | head -1)
  case $version in *" 7.2"*) ;; *) echo "suite $suite has another one: $version" >&2; exit 1 ;; esac
  if missing=$(ldd $binary | grep 'not found'); then echo "libraries are missing: $missing" >&2; exit 1; fi
  # the last step: what is there is whole
  mv root "$cache/root"
fi
# firmware of network cards is in a package of its own, which the installed QEMU needs too
cat > "$program.new" <<PROGRAM
#!/bin/sh
exec '$cache/root/usr/bin/qemu-system-x86_64' -L '$cache/root/usr/share/qemu' -L /usr/share/seabios -L /usr/lib/ipxe/qemu "\$@"
PROGRAM
chmod +x "$program.new"
mv "$program.new" "$program"
"$program" --version >/dev/null
echo "$program"
