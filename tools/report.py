"""Write a page of a run: see `python tools/report.py --help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout without installing
    from fcn_caffe.commands import main

    sys.exit(main([Path(__file__).stem, *sys.argv[1:]]))
