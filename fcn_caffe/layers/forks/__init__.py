"""Layers that other Caffes added: a file for each family; each class says whose it is, and that fork's rule.

`register` is told `forks`. Where several forks mean different things by one type, `param.fork` says which one is meant:
`fcn_caffe.net.fork_choice` writes it. A layer that needs it and finds it empty asks with `ask_fork`.
"""

from fcn_caffe.layers.base import import_families

import_families(__name__, __path__)
