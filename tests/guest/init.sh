#!/bin/sh
# Process 1 of the guest: network, guest agent, the service that writes data, a web page on port 80 and a shell on the
# serial console. Prints REPLICATE-READY when all of it runs, with the last order on disk and a check of all of them, and
# then REPLICATE-SEQ with the last order every two seconds: where the console is all that one sees of a guest, it tells
# what an image taken at that moment must hold.
#
# /sbin/shutdown is what the guest agent and the power button call: the service takes a last order, which is kept as the goodbye that
# the next boot tells, and the power goes off. A disk with the file /etc/stay-on makes it do nothing.
# A disk with the file /etc/panic-on-boot makes the kernel panic instead: a drill must see that.
export PATH=/bin:/sbin:/usr/sbin:/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /dev/pts
mount -t devpts pts /dev/pts
ln -sf /proc/self/mounts /etc/mtab
hostname "$(cat /etc/hostname)"
# pvpanic lets the host see a panic as an event
for module in virtio_console virtio_net pvpanic-pci pvpanic-mmio button evdev; do modprobe -q $module; done
if [ -e /etc/panic-on-boot ]; then
  echo "REPLICATE-PANIC /etc/panic-on-boot asks for it"
  echo 1 > /proc/sys/kernel/sysrq
  echo c > /proc/sysrq-trigger
fi

boots=$(($(cat /data/boots 2>/dev/null || echo 0) + 1))
echo $boots > /data/boots
sync # a capture may show the next moment
# a second disk, if there is one that holds a file system
for disk in vdb sdb nvme1n1; do
  if [ -b /dev/$disk ] && mount -t ext4 /dev/$disk /data2 2>/dev/null; then break; fi
done

mkdir -p /dev/virtio-ports
for port in /sys/class/virtio-ports/*/name; do
  [ -e "$port" ] && ln -sf ../$(basename $(dirname $port)) /dev/virtio-ports/$(cat $port)
done
channel=/dev/virtio-ports/org.qemu.guest_agent.0
[ -e $channel ] && qemu-ga -m virtio-serial -p $channel -t /run -f /run/qga.pid -d

acpid # the power button
ip link set lo up
ip addr add 127.0.0.1/8 dev lo 2>/dev/null
card=$(ls /sys/class/net | grep -v '^lo$' | head -1)
if [ -n "$card" ]; then
  # the address that QEMU's user network gives to its first guest
  ip link set "$card" up
  ip addr add 10.0.2.15/24 dev "$card"
  ip route add default via 10.0.2.2
fi

orders write &
httpd -p 80 -h /srv/www
while [ ! -s /data/seq ]; do usleep 100000; done # ready means: the first order is on disk
echo "REPLICATE-READY boots=$boots seq=$(cat /data/seq 2>/dev/null) $(orders check) goodbye=$(cat /data/goodbye 2>/dev/null) uptime=$(cut -d' ' -f1 /proc/uptime)"
while sleep 2; do echo "REPLICATE-SEQ $(cat /data/seq)"; done &
trap 'sync; poweroff -f' USR2 TERM
trap 'sync; reboot -f' INT
while :; do setsid sh -c 'exec sh -i </dev/ttyS0 >/dev/ttyS0 2>&1'; done
