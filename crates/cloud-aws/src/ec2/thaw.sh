# Lets a freeze end, and tells how it went. Before it stand `token=` and `limit=`; see freeze.rs.
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 077
place=/run/replicate-freeze/$token
mkdir -p /run/replicate-freeze
# what has not begun shall not begin
mkdir "$place" 2> /dev/null && echo "why=it never began" > "$place/done"
echo > "$place/end"
seconds=0
until [ -s "$place/done" ] || [ "$seconds" -ge "$limit" ]; do
  sleep 1
  seconds=$((seconds + 1))
done
line="why=it does not end"
[ -s "$place/done" ] && read -r line < "$place/done"
echo "replicate-freeze $line"
