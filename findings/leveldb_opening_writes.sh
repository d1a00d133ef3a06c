#!/bin/sh
# A good guess: a LevelDB that is opened only to be read, with create_if_missing off, keeps its files as they are.
# What happens: each opening writes a new MANIFEST, turns the write-ahead log into a table and begins a new one, rotates LOG
# and deletes the old files, though nothing was put. There is no option to open without writing, so a folder that may not
# be written cannot be read, and a checksum of the folder is another one afterwards.
# What we do about it: fcn_caffe opens a folder of links beside the user's, so that the user's files stay as they are.
# Source: LevelDB's doc/impl.md, under "Manifest" and "Recovery"; no page for users says it. Seen with plyvel 1.5.1.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check plyvel==1.5.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import hashlib
from pathlib import Path

import plyvel


def files(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in sorted(Path(folder).iterdir())}


with plyvel.DB("numbers", create_if_missing=True) as database:
    database.put(b"key", b"value")

for opening in ("first", "second"):
    before = files("numbers")
    with plyvel.DB("numbers", create_if_missing=False) as database:
        assert database.get(b"key") == b"value"
    after = files("numbers")
    gone = sorted(set(before) - set(after))
    new = sorted(set(after) - set(before))
    changed = sorted(name for name in set(before) & set(after) if before[name] != after[name])
    print(f"plyvel {plyvel.__version__}, {opening} opening to read: gone {gone}, new {new}, changed {changed}")
    assert any(name.startswith("MANIFEST") for name in gone), "the manifest stayed: the finding no longer holds"
    assert any(name.startswith("MANIFEST") for name in new) and "CURRENT" in changed
PYTHON
