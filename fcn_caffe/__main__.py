"""`python -m fcn_caffe COMMAND …` is `fcn-caffe COMMAND …`."""

import sys

from fcn_caffe.commands import main

if __name__ == "__main__":
    sys.exit(main())
