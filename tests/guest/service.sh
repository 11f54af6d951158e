#!/bin/sh
# The guest's "production service": takes an order ten times a second and never loses one.
#
#   orders write   appends orders to /data/orders, each line synced before the next; the number of the last one is in
#                  /data/seq and, if there is a second disk, then in /data2/seq. A crash-consistent image of both
#                  disks therefore shows seq(disk 1) - seq(disk 2) in {0, 1}, whatever the moment.
#   orders stop    lets the service take its last order, and returns when it has ended
#   orders check   counts the orders and checks that each is there exactly once and whole; ends with 1 if not
# Called by the web server (as /cgi-bin/orders) it answers with the same check.
export PATH=/bin:/sbin:/usr/sbin:/usr/bin

put() { echo "$1" | dd of="$2.new" conv=fsync 2>/dev/null && mv "$2.new" "$2"; }

# Line n is `n sum` with sum = (n * 7919) mod 1000003, so that a torn or foreign line shows.
check() {
  awk '{ n++; if ($1 != n || $2 != ($1 * 7919) % 1000003 || NF != 2) bad++ }
    END { printf "orders=%d broken=%d\n", n, bad; exit bad > 0 }' /data/orders
}

case ${1:-cgi} in
  write)
    # a line that a power cut left half written was never acknowledged: drop it
    if [ -e /data/orders ]; then
      good=$(awk '{ if ($1 != NR || $2 != ($1 * 7919) % 1000003) exit; g = NR } END { print g + 0 }' /data/orders)
      head -n "$good" /data/orders > /data/orders.new && sync && mv /data/orders.new /data/orders
    fi
    n=$(wc -l < /data/orders 2>/dev/null || echo 0)
    echo $$ > /run/orders.pid
    stop=
    trap 'stop=1' TERM
    while [ -z "$stop" ]; do
      n=$((n + 1))
      echo "$n $((n * 7919 % 1000003))" | dd of=/data/orders oflag=append conv=notrunc,fsync 2>/dev/null
      put $n /data/seq
      if grep -q ' /data2 ' /proc/mounts; then put $n /data2/seq; fi
      usleep 100000
    done
    ;;
  stop)
    service=$(cat /run/orders.pid)
    kill "$service" && while [ -d "/proc/$service" ]; do usleep 20000; done
    ;;
  check) check ;;
  cgi)
    printf 'Content-Type: text/plain\r\n\r\n'
    check
    ;;
esac
