"""Audit what the papers claim: see `python tools/audit.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout without installing

try:
    from fcn_caffe.commands.audit import main
except KeyboardInterrupt:  # while PyTorch is being loaded
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
