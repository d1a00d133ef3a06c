"""Run a script for which `import caffe` means the face: python -m fcn_caffe.pycaffe SCRIPT ARGS."""

from __future__ import annotations

import os
import runpy
import sys

from fcn_caffe.pycaffe.install import install


def main() -> None:
    """Run sys.argv[1] as Python would run it: its own argv, folder on sys.path, __name__ and exit code."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: python -m fcn_caffe.pycaffe SCRIPT ARGS\n\nRuns a script of Caffe's with this package as caffe.")
        sys.exit(0 if sys.argv[1:] else 2)
    script = sys.argv[1]
    if not os.path.isfile(script):
        sys.exit(f"python -m fcn_caffe.pycaffe: {script}: no such script. Check the path.")
    install()
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
