"""The nets of the paper, and how they are trained. `models.files` writes them; tools/make_nets.py is its command."""

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
