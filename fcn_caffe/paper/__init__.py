"""The paper's statements as code: an audit of its claims, the experiments that measure them, a report of both.

`paper.audit` checks the claims of claims.tsv against nets, solvers and code; `paper.experiments` runs what the paper
says and measures it; `paper.report` makes one HTML page of an audit. All three speak of results:

>>> from fcn_caffe.paper import Result
>>> result = Result("T1.stride", "Table 1", "max stride")
>>> result.measure("FCN-32s, pixels between two scores", 32, wanted="32", holds=True)
>>> result.verdict
'holds'
"""

from fcn_caffe.paper.result import DIFFERS, HOLDS, NOT_RUN, Curve, Result, Row, relative

__all__ = ["DIFFERS", "HOLDS", "NOT_RUN", "Curve", "Result", "Row", "relative"]
