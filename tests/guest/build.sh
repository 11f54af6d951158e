#!/usr/bin/env bash
# Builds the small real Debian guest that the tests and the demo boot, and prints the folder that holds it:
#   tiny.raw     a 256 MiB GPT disk that boots under BIOS and under UEFI, on virtio-blk, virtio-scsi and NVMe
#   tiny.qcow2   the same bytes
#   vmlinuz      its kernel, for the accelerator probe
#
# Usage: tests/guest/build.sh [--force]
#
# The folder is cached under ${REPLICATE_CACHE:-~/.cache/replicate}/guest by a hash of these scripts, so it is built
# once per machine (about 10 seconds). Works as an ordinary user: no loop device, no mount, no chroot. mke2fs -d fills
# the root file system, mtools the EFI system partition, and GRUB's BIOS core image is placed by hand.
# What it needs is installed by deploy/install-packages.sh. Beside this file: initramfs.sh finds the root file system,
# init.sh is process 1 of the guest, service.sh is the "production service" that writes data.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${REPLICATE_CACHE:-$HOME/.cache/replicate}/guest
size=256M
root_uuid=5eed0fda-7a00-4000-8000-7e57ab1e5e7f
PATH=$PATH:/usr/sbin:/sbin

say() { printf 'guest: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

key=$(cd "$here" && sha256sum build.sh initramfs.sh init.sh service.sh shutdown.sh | sha256sum | cut -c1-16)
out=$cache/$key
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9 # two test runs at once build it once
if [ -e "$out/complete" ] && [ "${1:-}" != --force ]; then
  echo "$out"
  exit 0
fi

for tool in sgdisk mke2fs mkfs.vfat mmd mcopy grub-mkimage busybox cpio depmod objdump qemu-img dpkg apt-get; do
  command -v "$tool" >/dev/null || die "cannot find $tool: run deploy/install-packages.sh"
done

work=$(mktemp -d "$cache/.build.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
lib=lib/x86_64-linux-gnu

# Fetches a package (not installing it) and unpacks it into a folder.
unpack() {
  local name=$1 folder=$2 debs=$cache/debs
  mkdir -p "$debs" "$folder"
  if ! compgen -G "$debs/${name}_*.deb" >/dev/null; then
    (cd "$debs" && download "$name") || die "cannot download the package $name: run apt-get update"
  fi
  dpkg -x "$(compgen -G "$debs/${name}_*.deb" | tail -1)" "$folder"
}

# The installed version of a library may be gone from the archive; then any other version does.
download() {
  local name=$1 version
  apt-get download -q "$name" >/dev/null 2>&1 && return
  for version in $(apt-cache madison "$name" | awk '{print $3}'); do
    apt-get download -q "$name=$version" >/dev/null 2>&1 && return
  done
  return 1
}

# The first package of these names that there is (Debian renamed some in the 64-bit time_t transition).
first_package() {
  local name
  for name in "$@"; do
    if apt-cache show "$name" >/dev/null 2>&1; then echo "$name"; return; fi
  done
  die "none of these packages is known to apt: $*"
}

make_root() {
  mkdir -p "$root"/{bin,sbin,etc/qemu,proc,sys,dev,run,tmp,data,data2,mnt,root,boot/grub,usr/bin,usr/sbin,var/log,$lib,lib64,srv/www/cgi-bin}
  cp "$(command -v busybox)" "$root/bin/busybox"
  local applet
  for applet in $("$root/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -sf /bin/busybox "$root/bin/$applet"
  done
  rm -f "$root/bin/init"
  install -m 755 "$here/init.sh" "$root/sbin/init"
  install -m 755 "$here/service.sh" "$root/usr/bin/orders"
  install -m 755 "$here/shutdown.sh" "$root/sbin/shutdown"
  mkdir -p "$root/etc/acpi/PWRF"
  ln -s /sbin/shutdown "$root/etc/acpi/PWRF/00000080"
  ln -s /usr/bin/orders "$root/srv/www/cgi-bin/orders"
  printf 'root:x:0:0:root:/root:/bin/sh\n' > "$root/etc/passwd"
  printf 'PRETTY_NAME="replicate test guest"\nID=replicate-guest\nVERSION_ID=1\n' > "$root/etc/os-release"
  printf 'tiny\n' > "$root/etc/hostname"
  printf 'UUID=%s / ext4 defaults 0 1\n' "$root_uuid" > "$root/etc/fstab"
}

# qemu-ga with just the libraries that it names, all from packages and none from this machine.
add_agent() {
  local package queue next seen=" " name file
  for package in qemu-guest-agent libc6 "$(first_package libglib2.0-0t64 libglib2.0-0)" libpcre2-8-0 \
    "$(first_package libudev1)" "$(first_package liburing2)" "$(first_package libnuma1)" libgcc-s1; do
    unpack "$package" "$work/agent"
  done
  needed() { objdump -p "$1" | awk '/NEEDED/{print $2}'; }
  queue=$(needed "$work/agent/usr/sbin/qemu-ga")
  while [ -n "$queue" ]; do
    next=
    for name in $queue; do
      case $seen in *" $name "*) continue ;; esac
      seen="$seen$name "
      file=$(find "$work/agent" -name "$name" \( -type f -o -type l \) -print -quit)
      [ -n "$file" ] || die "cannot find $name, which qemu-ga needs"
      cp -L "$file" "$root/$lib/$name"
      next="$next $(needed "$file")"
    done
    queue=$next
  done
  cp "$work/agent/usr/sbin/qemu-ga" "$root/usr/sbin/"
  cp -L "$(find "$work/agent" -name ld-linux-x86-64.so.2 -print -quit)" "$root/lib64/"
}

# The kernel, the modules that a cloud server may need to find its disks, and an initramfs that loads them.
add_kernel() {
  local package version folder module modules file relative some initramfs=$work/initramfs
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/{print $2; exit}')
  [ -n "$package" ] || die "apt knows no cloud kernel: run apt-get update"
  version=${package#linux-image-}
  unpack "$package" "$work/kernel"
  folder=$(cd "$work/kernel" && find . -type d -path "*lib/modules/$version" -print -quit)
  mkdir -p "$work/all/lib/modules" "$work/some/lib/modules/$version" "$initramfs"/{bin,dev,proc,sys,new,lib}
  cp -a "$work/kernel/$folder" "$work/all/lib/modules/"
  depmod -b "$work/all" "$version"
  modules="virtio_pci virtio_blk virtio_scsi virtio_net virtio_console nvme sd_mod xen-blkfront hv_storvsc ext4 pvpanic-pci pvpanic-mmio button evdev"
  some=$work/some/lib/modules/$version
  for module in $modules; do
    # not every kernel builds each of them as a module
    modprobe -d "$work/all" -S "$version" --show-depends "$module" 2>/dev/null | awk '/^insmod/{print $2}' || true
  done | sort -u | while read -r file; do
    relative=${file#"$work/all/lib/modules/$version/"}
    mkdir -p "$some/$(dirname "$relative")"
    cp "$file" "$some/$relative"
  done
  cp "$work/all/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$some/"
  depmod -b "$work/some" "$version"
  mkdir -p "$root/lib/modules"
  cp -a "$work/some/lib/modules/$version" "$root/lib/modules/"
  cp -a "$work/some/lib/modules" "$initramfs/lib/"
  cp "$root/bin/busybox" "$initramfs/bin/"
  install -m 755 "$here/initramfs.sh" "$initramfs/init"
  (cd "$initramfs" && find . | LC_ALL=C sort | cpio -o -H newc --quiet | gzip -6n) > "$root/boot/initrd.img"
  cp "$work/kernel/boot/vmlinuz-$version" "$root/boot/vmlinuz"
  cp "$root/boot/vmlinuz" "$work/vmlinuz"
  cat > "$root/boot/grub/grub.cfg" <<CFG
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout=0
search --no-floppy --fs-uuid --set=root $root_uuid
linux /boot/vmlinuz root=UUID=$root_uuid rw console=tty0 console=ttyS0,115200 panic=5
initrd /boot/initrd.img
boot
CFG
}

little_endian() {
  local value=$1 count=$2 text= k
  for ((k = 0; k < count; k++)); do text+=$(printf '\\x%02x' $(((value >> (8 * k)) & 255))); done
  printf "$text"
}

# 1 MiB BIOS boot partition, 16 MiB EFI system partition, the rest ext4.
make_disk() {
  local disk=$1 first last kib modules sectors
  truncate -s "$size" "$disk"
  sgdisk -a 2048 -n 1:2048:4095 -t 1:EF02 -c 1:bios -n 2:4096:+16M -t 2:EF00 -c 2:esp -n 3:0:0 -t 3:8300 -c 3:root \
    "$disk" >/dev/null
  read -r first last < <(sgdisk -i 3 "$disk" | awk '/First sector/{s=$3} /Last sector/{e=$3} END{print s, e}')
  kib=$(((last - first + 1) / 2 / 4 * 4))
  mke2fs -q -t ext4 -L root -U "$root_uuid" -E "offset=$((first * 512)),lazy_itable_init=1,root_owner=0:0" \
    -d "$root" -F "$disk" "${kib}k"

  printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n' "$root_uuid" > "$work/early.cfg"
  modules="part_gpt ext2 normal configfile search search_fs_uuid linux serial terminal echo test boot"
  # shellcheck disable=SC2086 # a list of words
  grub-mkimage -O x86_64-efi -p /boot/grub -c "$work/early.cfg" -o "$work/bootx64.efi" $modules fat efi_gop
  # shellcheck disable=SC2086
  grub-mkimage -O i386-pc -p /boot/grub -c "$work/early.cfg" -o "$work/core.img" biosdisk $modules
  truncate -s 16M "$work/esp"
  mkfs.vfat -F 16 -n ESP "$work/esp" >/dev/null
  mmd -i "$work/esp" ::/EFI ::/EFI/BOOT
  mcopy -i "$work/esp" "$work/bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
  dd if="$work/esp" of="$disk" bs=512 seek=4096 conv=notrunc,sparse status=none

  sectors=$((($(stat -c %s "$work/core.img") + 511) / 512))
  [ "$sectors" -le 2048 ] || die "GRUB's core image does not fit into its partition"
  cp /usr/lib/grub/i386-pc/boot.img "$work/boot.img"
  little_endian 2048 8 | dd of="$work/boot.img" bs=1 seek=92 conv=notrunc status=none           # where core.img begins
  printf '\x90\x90' | dd of="$work/boot.img" bs=1 seek=102 conv=notrunc status=none             # trust the BIOS's drive
  { little_endian 2049 8; little_endian $((sectors - 1)) 2; little_endian $((0x820)) 2; } |
    dd of="$work/core.img" bs=1 seek=500 conv=notrunc status=none                               # the rest of core.img
  dd if="$work/boot.img" of="$disk" bs=1 count=440 conv=notrunc status=none
  dd if="$work/core.img" of="$disk" bs=512 seek=2048 conv=notrunc status=none
}

say "building (cached in $out)"
make_root
add_agent
add_kernel
make_disk "$work/tiny.raw"
qemu-img convert -q -f raw -O qcow2 -o compat=1.1,lazy_refcounts=off "$work/tiny.raw" "$work/tiny.qcow2"
rm -rf "$out"
mkdir "$out"
mv "$work"/{tiny.raw,tiny.qcow2,vmlinuz} "$out/"
touch "$out/complete"
say "done: $(du -m "$out/tiny.raw" | cut -f1) MiB used of $size"
echo "$out"
