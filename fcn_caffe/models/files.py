"""The files of nets/, solvers/ and weights/MANIFEST.toml, as text."""

from __future__ import annotations

from fcn_caffe.models.classics import CLASSICS, classic_net, classic_solver
from fcn_caffe.models.nets import NETS, make_net
from fcn_caffe.models.published import manifest
from fcn_caffe.models.recipes import RECIPES, solver_param
from fcn_caffe.models.shapes import shapes_files
from fcn_caffe.proto import write_text

__all__ = ["all_files"]

_HEADER = "# Written by tools/make_nets.py; change fcn_caffe/{source} and run it again.\n"


def all_files() -> dict[str, str]:
    """Return the text of each file that tools/make_nets.py writes, by its path from the repository's root."""
    files = {
        path: _HEADER.format(source="models/shapes.py") + write_text(message)
        for path, message in shapes_files().items()
    }
    for name in NETS:
        files[f"nets/{name}.prototxt"] = _HEADER.format(source="models/nets.py") + write_text(make_net(name))
        files[f"solvers/{name}.prototxt"] = _HEADER.format(source="models/recipes.py") + _solver_text(name)
    for name, classic in CLASSICS.items():
        header = _HEADER.format(source=f"models/classics/{classic.file}.py")
        files[f"nets/{name}.prototxt"] = header + write_text(classic_net(name))
        header = _HEADER.format(source="models/classics/register.py")
        files[f"solvers/{name}.prototxt"] = header + write_text(classic_solver(name))
    files["weights/MANIFEST.toml"] = manifest()
    return files


def _solver_text(name: str) -> str:
    """Return a solver's text with a remark on each setting that surprises."""
    recipe = RECIPES[name]
    remarks = {
        "test_interval": "the schedule scores the test net itself, after each step",
        "base_lr": "for a loss averaged over pixels" if recipe.iter_size > 1 else "for a loss summed over pixels",
        "momentum": "a minibatch of 20 images" if recipe.iter_size > 1 else "high, in place of a minibatch",
        "iter_size": "images a step" if recipe.iter_size > 1 else "one image a step",
    }
    lines = []
    # What is trained, and from what, stands first.
    for line in sorted(
        write_text(solver_param(name)).splitlines(), key=lambda line: not line.startswith(("net:", "weights:"))
    ):
        remark = remarks.get(line.partition(":")[0])
        lines.append(f"{line}  # {remark}" if remark else line)
    return "\n".join(lines) + "\n"
