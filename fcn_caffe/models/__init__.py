"""The paper's nets and their recipes. `models.files` writes nets/ and solvers/; make_nets is its command.

>>> from fcn_caffe import TEST, Net
>>> from fcn_caffe.models import RECIPES, make_net
>>> net = Net(make_net("voc-fcn8s"), TEST, stages=("deploy",), device="meta")  # shapes alone, no memory
>>> net.blob_shapes["score"]
(1, 21, 500, 500)
>>> [start.weights for start in RECIPES["voc-fcn8s"].starts]
['weights/voc-fcn16s.caffemodel']
"""

from fcn_caffe.models.nets import COLOUR_SCALE, NETS, DataSource, classifier, fcn, make_net, without_defaults
from fcn_caffe.models.published import PUBLISHED, Published, how_to_get
from fcn_caffe.models.recipes import RECIPES, Recipe, Start, solver_param, starts_of
from fcn_caffe.models.trunks import VGG16, Vgg, first_pad

__all__ = [
    "COLOUR_SCALE",
    "NETS",
    "PUBLISHED",
    "RECIPES",
    "VGG16",
    "DataSource",
    "Published",
    "Recipe",
    "Start",
    "Vgg",
    "classifier",
    "fcn",
    "first_pad",
    "how_to_get",
    "make_net",
    "solver_param",
    "starts_of",
    "without_defaults",
]
