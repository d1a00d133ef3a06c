"""Write nets/ and solvers/: see `python tools/make_nets.py --help`."""

import os
import sys

if __name__ == "__main__":
    folder, name = os.path.split(os.path.realpath(__file__))
    sys.path.insert(0, os.path.dirname(folder))  # runs from a checkout without installing
    from fcn_caffe.commands import main

    sys.exit(main([name.removesuffix(".py"), *sys.argv[1:]]))
