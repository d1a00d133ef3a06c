"""Preflight: what would make a net answer nothing or a training fail. Each finding says what to do about it.

`subject` reads a net or a solver; `start` knows its parameters before the first step; `dead`, `rates`, `refusals`,
`structure` and `inputs` are the checks; `examine` runs them.

>>> from fcn_caffe.doctor import ERROR, examine
>>> from fcn_caffe.host.paths import shipped
>>> examination = examine(shipped("solvers/shapes-fcn32s.prototxt"))
>>> examination.count(ERROR)
0
"""

from fcn_caffe.doctor.examine import IMAGES, examine
from fcn_caffe.doctor.findings import ERROR, NOTE, WARNING, Examination, Finding

__all__ = ["ERROR", "IMAGES", "NOTE", "WARNING", "Examination", "Finding", "examine"]
