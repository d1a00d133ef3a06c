"""Prepares the paper's data sets from downloaded archives: unpack, convert, write splits, check."""

from fcn_caffe.data.prepare.data_set import Job
from fcn_caffe.data.prepare.nyud import Nyud
from fcn_caffe.data.prepare.pascal_context import PascalContext
from fcn_caffe.data.prepare.sbd import Sbd
from fcn_caffe.data.prepare.sift_flow import SiftFlow
from fcn_caffe.data.prepare.voc import Voc

__all__ = ["DATA_SETS", "Job"]

DATA_SETS = {
    "voc2011": Voc(2011),
    "voc2012": Voc(2012),
    "sbd": Sbd(),
    "nyud": Nyud(),
    "siftflow": SiftFlow(),
    "pascal-context": PascalContext(),
}
