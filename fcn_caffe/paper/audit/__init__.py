"""The audit: what the papers and the release claim, each claim with a check.

`audit(files)` runs the checks and returns a record, which `paper.report` makes a page of. One check by itself, in a
checkout:

>>> from fcn_caffe.paper.audit import CHECKS, AuditedFiles
>>> print(CHECKS["T1.stride"].run(AuditedFiles(".")))
T1.stride (section Table 1): max stride
  voc-fcn-alexnet, score_fr              32  32 px                  yes
  voc-fcn32s, score_fr                   32  32 px                  yes
  voc-fcn-googlenet, score_fr            32  32 px                  yes
verdict: holds
"""

from fcn_caffe.paper.audit.claims import CHECKS, Check, Claim, read_claims
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.locate import Place, locate
from fcn_caffe.paper.audit.run import VERDICTS, audit, choose_claims

__all__ = [
    "CHECKS",
    "VERDICTS",
    "AuditedFiles",
    "Check",
    "Claim",
    "Place",
    "audit",
    "choose_claims",
    "locate",
    "read_claims",
]
