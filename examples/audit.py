"""The audit: is a copy of the released nets still the paper's? One number of it is changed, and the audit names it.

You see a table of five claims twice. Over the released files all five hold. Over the copy, whose voc-fcn8s crops its
last scores at 30 in place of 31, the claim on crop offsets differs: the row says what was expected and what came.
"""

import shutil
import tempfile
from pathlib import Path

from fcn_caffe.commands import audit

ROOT = Path(__file__).parent.parent
CLAIMS = "REL.crop,REL.zero,REL.dropout,REL.rate,REL.momentum"

audit.main(["--root", str(ROOT), "--only", CLAIMS])
with tempfile.TemporaryDirectory() as copy:
    for folder in ("nets", "solvers"):
        shutil.copytree(ROOT / folder, Path(copy, folder))
    net = Path(copy, "nets", "voc-fcn8s.prototxt")
    net.write_text(net.read_text().replace("offset: 31", "offset: 30"))
    audit.main(["--root", copy, "--only", CLAIMS])
