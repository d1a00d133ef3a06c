"""Old module names: for one release they import with a warning that says the new place."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from fcn_caffe.host.module_alias import AliasLoader

PACKAGE = __name__.split(".")[0]

# The name before 0.2: the name now, both within the package. A package's modules follow it.
RENAMED = {
    "atomic": "host.atomic",
    "confusion_picture": "evaluation.confusion_picture",
    "convolution_proof": "net.rewrite.convolution_proof",
    "convolutionalize": "net.rewrite.convolutionalize",
    "coord_map": "net.coord_map",
    "data.by_name": "data.sets.by_name",
    "data.data_changes": "data.sets.altering_layers",
    "data.databases": "data.readers.databases",
    "data.datum": "data.readers.datum",
    "data.folder_layers": "data.sets.folder_layers",
    "data.image_files": "data.readers.image_files",
    "data.image_layer": "data.sets.one_image_layer",
    "data.image_list": "data.readers.image_list",
    "data.label_check": "data.own.label_check",
    "data.labels": "data.readers.labels",
    "data.mean_file": "data.readers.mean_image",
    "data.nyud_layers": "data.sets.nyud_layers",
    "data.opencv_images": "data.readers.opencv_images",
    "data.options": "data.sets.options",
    "data.pascalcontext_layers": "data.sets.pascalcontext_layers",
    "data.places": "host.paths",
    "data.reference": "data.sets.reference_layer",
    "data.resize": "data.readers.resize",
    "data.sampling": "data.sets.sampling",
    "data.sets.data_changes": "data.sets.altering_layers",  # a net names it by its last name alone
    "data.shapes": "data.sets.shapes_scenes",
    "data.shapes_layers": "data.sets.shapes_layers",
    "data.siftflow_layers": "data.sets.siftflow_layers",
    "data.task_folder": "data.own.task_folder",
    "data.voc_layers": "data.sets.voc_layers",
    "data.window_list": "data.readers.window_list",
    "debug_info": "net.debug_info",
    "deploy_form": "net.rewrite.deploy_form",
    "devices": "host.devices",
    "draw": "net.draw",
    "features": "evaluation.features",
    "fillers": "layers.fillers",
    "graph": "net.graph",
    "infer": "evaluation.infer",
    "layers.datum_data": "data.layers.data",
    "layers.dummy_data": "data.layers.dummy_data",
    "layers.hdf5_data": "data.layers.hdf5_data",
    "layers.image_data": "data.layers.image_data",
    "layers.memory_data": "data.layers.memory_data",
    "layers.prefetched": "data.layers.prefetched",
    "layers.window_data": "data.layers.window_data",
    "learnable": "net.parameters",
    "log": "host.glog",
    "log_chart": "training.log_chart",
    "log_parser": "training.log_parser",
    "memory": "host.free_memory",
    "metrics": "evaluation.metrics",
    "net_spec": "net.net_spec",
    "picture": "training.stage_picture",
    "predictions": "evaluation.predictions",
    "preflight": "doctor.stages",
    "preprocessing": "weights.record",
    "progress": "host.progress",
    "schedule": "training.plan",
    "score": "evaluation.score",
    "solver": "training.solver",
    "splits": "net.rewrite.splits",
    "surgery": "weights.surgery",
    "task_nets": "models.own_task",
    "timing": "net.timing",
    "vis": "host.pictures",
    "weight_formats": "weights.formats",
}


class _WarningLoader(AliasLoader):
    """Loads the module of the new name, and says that it has one."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        # The frames of the import system do not count: the warning shows the line that imports.
        message = f"{spec.name} is now {self.place}; the old name goes with 0.3."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return super().create_module(spec)


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        place = new_name(name)
        return None if place is None else ModuleSpec(name, _WarningLoader(place))


def new_name(name: str) -> str | None:
    """Return the full name of a module now, for its full name in 0.1; None where that is the same."""
    if not name.startswith(f"{PACKAGE}."):
        return None
    parts = name.split(".")[1:]
    for length in range(len(parts), 0, -1):
        place = RENAMED.get(".".join(parts[:length]))
        if place is not None:
            return ".".join([PACKAGE, place, *parts[length:]])
    return None


def install() -> None:
    """Make the old names importable. Safe to call again."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # In front: a module of a renamed package must not be loaded a second time under its old name.
        sys.meta_path.insert(0, _Finder())
