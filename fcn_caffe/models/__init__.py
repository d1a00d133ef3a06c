"""The nets of the paper, and how they are trained."""

from fcn_caffe.models.recipes import RECIPES, Recipe, Start, solver_param, starts_of

__all__ = ["RECIPES", "Recipe", "Start", "solver_param", "starts_of"]
