#!/usr/bin/env bash
# Installs the Debian packages of the test cloud; safe to repeat, does nothing when all is there.
#
# Usage: tests/openstack/install.sh [TIER]      (as root, or as a user who may sudo; TIER 1 to 3, default 3)
#
# Libraries rather than daemons: no maintainer script asks a question, makes a user's service or starts anything. Beside
# the packages it makes the user libvirt-qemu, which libvirt looks up even when it is told to run guests as root.
# OSLAB_NO_INSTALL=1: installs nothing. Exit code 77: it cannot be had on this machine; a line `SKIPPED: why` says so.
. "$(dirname "$0")/lib.sh"
tier=${1:-3}
root_or_sudo "$@"

packages=(curl ca-certificates iproute2 procps python3-keystone python3-glance python3-openstackclient
  uwsgi-core uwsgi-plugin-python3)
# both libvirt packages: with the driver alone guests boot, but live snapshots do not see a disk's backing chain
[ "$tier" -lt 2 ] || packages+=(python3-nova python3-placement python3-neutron python3-libvirt qemu-system-x86
  qemu-utils libvirt-daemon libvirt-daemon-driver-qemu genisoimage)
[ "$tier" -lt 3 ] || packages+=(python3-cinder e2fsprogs mount)

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done

install() {
  [ $# -gt 0 ] || return 0
  apt-get install -qq -y -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 -o DPkg::Options::=--force-unsafe-io \
    --no-install-recommends "$@" >>"$OSLAB/log/install.log" 2>&1 && return
  tail -n 30 "$OSLAB/log/install.log" >&2
  cannot "apt does not install $*"
}

if [ ${#missing[@]} -gt 0 ]; then
  [ -z "${OSLAB_NO_INSTALL:-}" ] || cannot "these packages are missing: ${missing[*]}"
  command -v apt-get >/dev/null || cannot "this is no Debian"
  . /etc/os-release
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq -o DPkg::Lock::Timeout=600 || cannot "apt reaches no archive"
  [ -n "$(apt-cache madison python3-nova)" ] || cannot "apt knows no package python3-nova"
  policy=/usr/sbin/policy-rc.d # nothing starts by itself while packages are unpacked
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
  fi
  virtual=() other=()
  for package in "${missing[@]}"; do
    case $package in libvirt-* | qemu-*) virtual+=("$package") ;; *) other+=("$package") ;; esac
  done
  # libvirt must fit to QEMU, which deploy/install-packages.sh takes from backports on Debian 12. `package/suite`, since
  # `-t suite` would renew systemd as well.
  if [ "${VERSION_CODENAME:-}" = bookworm ] && apt-cache policy | grep -q n=bookworm-backports; then
    virtual=("${virtual[@]/%//bookworm-backports}")
  fi
  say "installing ${missing[*]}"
  install "${virtual[@]}"
  install "${other[@]}"
fi
getent group libvirt-qemu >/dev/null || groupadd -r libvirt-qemu
getent passwd libvirt-qemu >/dev/null || useradd -r -M -d /nonexistent -s /usr/sbin/nologin -g libvirt-qemu libvirt-qemu
