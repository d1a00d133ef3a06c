#!/bin/sh
# Run protobuf_runtime.py on the oldest, each major and the newest protobuf, compiled and pure Python.
# Makes one throw-away environment a version (about half a minute each, from the package index).
set -e
here=$(dirname "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in '==4.21.12' '==5.26.1' '==6.30.2' '>=7'; do
    "${PYTHON:-python3}" -m venv "$folder/env"
    "$folder/env/bin/pip" install -q "protobuf$version" numpy
    for kind in upb python; do
        PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=$kind "$folder/env/bin/python" -W error "$here/protobuf_runtime.py"
    done
    rm -rf "$folder/env"
done
