#!/bin/sh
# The tests on the oldest versions that the metadata promises, on Python 3.10 and on 3.13 (there: the oldest with a wheel
# for it). Outside CI: a torch of that age brings CUDA's libraries along, 2 to 3 GB for each Python.
#
#     sh tests/lower_bounds.sh [PYTHON…]       default: python3.10 python3.13
#
# Needs uv (pip install uv), which finds the oldest. Where plyvel has no wheel, LevelDB's tests skip.
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for python in ${*:-python3.10 python3.13}; do
    environment="$folder/environment"
    echo "== $python"
    uv venv -q --clear --python "$python" "$environment"
    install="uv pip install -q --python $environment/bin/python --only-binary :all: --no-binary fcn-caffe"
    $install --resolution lowest-direct -e ".[lmdb,safetensors,plot]" "pytest>=7.4" "hypothesis>=6.80" "pytest-xdist>=3.5" "setuptools>=77"
    $install "plyvel>=1.5" || echo "plyvel has no wheel for $python"
    uv pip list -q --python "$environment/bin/python" | grep -E "^(torch|numpy|protobuf|pillow|h5py|scipy) "
    "$environment/bin/python" -m pytest -q -n auto -m "not slow" -p no:cacheprovider
done
