#!/bin/busybox sh
# /init of the guest's initramfs: loads disk drivers, finds the root file system by its UUID, hands over to init.sh.
# If there is no such file system it says so on the console, so that a boot test can tell why a guest does not start.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in virtio_pci virtio_blk virtio_scsi sd_mod nvme xen-blkfront hv_storvsc; do modprobe -q $module; done
for word in $(cat /proc/cmdline); do
  case $word in root=UUID=*) uuid=${word#root=UUID=} ;; esac
done
tries=0
while [ $tries -lt 50 ]; do
  device=$(findfs UUID=$uuid 2>/dev/null) && [ -n "$device" ] && mount -t ext4 "$device" /new && break
  tries=$((tries + 1))
  sleep 0.2
done
if [ ! -x /new/sbin/init ]; then
  echo "REPLICATE-NOROOT no device with UUID $uuid; block devices: $(ls /sys/class/block)"
  sleep 2
  poweroff -f
fi
echo "REPLICATE-ROOT $device"
umount /proc /sys
mount -o move /dev /new/dev
exec switch_root /new /sbin/init
