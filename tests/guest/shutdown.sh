#!/bin/sh
# Shuts the guest down in order: what the guest agent and the power button call. The service takes its last order; its number is kept in
# /data/goodbye and told on the console, so that a test knows what an image taken afterwards must hold.
export PATH=/bin:/sbin:/usr/sbin:/usr/bin
[ -e /etc/stay-on ] && exit 1
orders stop
cat /data/seq > /data/goodbye
sync
echo "REPLICATE-BYE seq=$(cat /data/goodbye)" > /dev/ttyS0
mount -o remount,ro / 2>/dev/null
sleep 1 # the console is slow
poweroff -f
