"""What is examined: a net file or a solver with its net, built without memory, with or without its data set."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from fcn_caffe.errors import FcnCaffeError, PrototxtError
from fcn_caffe.host.paths import Paths
from fcn_caffe.net.fork_choice import with_fork
from fcn_caffe.net.graph import Graph, Node, filter_net, read_net
from fcn_caffe.net.net import Net
from fcn_caffe.net.rewrite.deploy_form import picture_size
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.proto.upgrade import upgrade_net
from fcn_caffe.training.solver.settings import Settings

__all__ = ["Built", "Subject", "data_nodes", "read_subject", "tested_subjects"]

_COMMENT = re.compile("#.*")
_SOLVER_FIELD = re.compile(r"(?:^|\s)(net|train_net|net_param|train_net_param|base_lr|lr_policy)\s*[:{]")
# A data set that is not there is no fault of the net; anything else that its data layer says is.
_ABSENT = re.compile(r"is not there|no such|has no file|cannot be opened|does not exist|No such file", re.IGNORECASE)
_LABELLED = ("DenseImageData", "ImageLabelmapData", "ImageSegData")  # their tops: a picture, its label, its size
_DATA = ("Python", "Data", "ImageData", "HDF5Data", "MemoryData", "WindowData", *_LABELLED)
DEPLOY, SIDE = "deploy", 500  # pixels; the size of the released deploy nets, for nets that name none
LOSSES_OF_LABELS = ("SoftmaxWithLoss", "InfogainLoss", "MultinomialLogisticLoss", "Accuracy")


@dataclass
class Built:
    """A net on the meta device.

    Attributes:
        net: the net.
        data_error: why its own data layers cannot be built, or None.
        assumed: whether the size and the channels of its images are a guess.
    """

    net: Net
    data_error: FcnCaffeError | None = None
    assumed: bool = False

    @property
    def is_data_absent(self) -> bool:
        """Whether the data set is simply not here."""
        return self.data_error is not None and _ABSENT.search(str(self.data_error)) is not None


@dataclass
class Subject:
    """A net, from a file or inside a solver.

    Attributes:
        path: the file.
        settings: the solver's, or None.
        sources: by phase, a file or a NetParameter.
        size: of the images, (H, W), instead of their own.
        states: the nets' NetState, by phase.
        paths: what relative paths start from.
        blob_counts: how many blobs each layer has in the weights that fill the net; these, too, tell forks apart.
    """

    path: Path
    settings: Settings | None
    sources: dict[int, Path | caffe_pb2.NetParameter]
    size: tuple[int, int] | None = None
    states: dict[int, caffe_pb2.NetState] = field(default_factory=dict)
    paths: Paths = field(default_factory=Paths)
    blob_counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def fork(self) -> str:
        """The fork that the solver names; "" where it names none."""
        return "" if self.settings is None else str(self.settings.param.fork)

    @property
    def net_path(self) -> Path:
        """The net's file, or the solver's where the net is inside it."""
        source = self.sources[TRAIN]
        return source if isinstance(source, Path) else self.path

    def param(self, phase: int, stages: tuple[str, ...] | None = None) -> caffe_pb2.NetParameter:
        """The net's layers of one phase, as a NetParameter. Raises: PrototxtError, GraphError."""
        source, state = self.sources[phase], self._state(phase)
        stages = tuple(state.stage) if stages is None else stages
        param: caffe_pb2.NetParameter
        if isinstance(source, Path):
            param = read_net(source, phase, stages, state.level, fork=self.fork, blob_counts=self.blob_counts)
        else:
            param = caffe_pb2.NetParameter()
            param.CopyFrom(source)
            upgrade_net(param, str(self.path))
            param = filter_net(with_fork(param, self.fork, self.blob_counts), phase, stages, state.level)
        return param

    def has_no_net(self, phase: int) -> bool:
        """Say whether the file has no net of a phase: a net file may have one phase alone, and a solver need not test.

        Such a net has no layer that brings images in.
        """
        if self.settings is not None:
            param = self.settings.param
            asked = phase == TRAIN or param.test_iter or param.test_net or param.test_net_param
            return not asked and not self._has_inputs(phase)
        return not self._has_inputs(phase) and self._has_inputs(TEST if phase == TRAIN else TRAIN)

    def _has_inputs(self, phase: int) -> bool:
        try:
            return any(node.top and not node.bottom for node in self.param(phase).layer)
        except FcnCaffeError:
            return True  # what is wrong with it is said when it is built

    def _state(self, phase: int) -> caffe_pb2.NetState:
        return self.states.get(phase, caffe_pb2.NetState(phase=phase))

    def _net(self, phase: int, shapes: dict[str, tuple[int, ...]] | None = None) -> Net:
        """Build the net of a phase without memory. shapes: of tops that data layers would make."""
        state = self._state(phase)
        return Net(
            self.sources[phase],
            phase,
            stages=tuple(state.stage),
            level=state.level,
            device="meta",
            input_shapes=shapes,
            paths=self.paths,
            fork=self.fork,
            blob_counts=self.blob_counts,
        )

    def build(self, phase: int, other: Net | None = None) -> Built:
        """Build the net of a phase without memory; where its data layers fail, with inputs of an assumed size.

        other: the net of the other phase, whose data is there: its blobs say the size.
        Raises: FcnCaffeError where the net itself does not go together.
        """
        try:
            if self.size is None:
                return Built(self._net(phase))
            failure = None
        except FcnCaffeError as error:
            failure = error
        nodes = data_nodes(Graph.from_param(self.param(phase)), inputs=self.size is not None)
        if not nodes:
            if failure is not None:
                raise failure
            return Built(self._net(phase))
        try:
            shapes = self._shapes(phase, nodes, other, dense=True)
            return Built(self._net(phase, shapes), failure, True)
        except FcnCaffeError as error:
            shapes = self._shapes(phase, nodes, other, dense=False)
            try:
                return Built(self._net(phase, shapes), failure, True)
            except FcnCaffeError:
                raise error from None

    def _shapes(self, phase: int, nodes: list[Node], other: Net | None, dense: bool) -> dict[str, tuple[int, ...]]:
        """Return shapes for the tops of data layers: the deploy form's, else one colour image and its labels.

        dense: one label for each pixel, not one for each image.
        """
        graph = Graph.from_param(self.param(phase))
        labels = {node.bottoms[1] for node in graph.nodes if node.type in LOSSES_OF_LABELS}
        deploy = Graph.from_param(self.param(phase, (DEPLOY,))) if self._has_deploy(phase) else graph
        known: dict[str, tuple[int, ...]] = {}
        for node in deploy.nodes:
            if node.type == "Input":
                sizes = [tuple(shape.dim) for shape in node.param.input_param.shape]
                sizes *= len(node.tops) if len(sizes) == 1 else 1
                known.update(zip(node.tops, sizes, strict=False))
        side = next((shape[2:] for shape in known.values() if len(shape) == 4), None)
        crop = next((picture_size(node.param) for node in nodes if node.type != "Python"), ())
        height, width = self.size or side or crop or (SIDE, SIDE)
        shapes: dict[str, tuple[int, ...]] = {}
        for node in nodes:
            for top in node.tops:
                if other is not None and top in other.blob_shapes and self.size is None:
                    shapes[top] = other.blob_shapes[top]
                elif node.type in _LABELLED and top != node.tops[0]:
                    shapes[top] = (1, 1, height, width) if top == node.tops[1] else (1, 1, 1, 2)
                elif top in labels:
                    shapes[top] = (1, 1, height, width) if dense else (1,)
                else:
                    channels = known[top][1] if len(known.get(top, ())) > 1 else 1 if top == "depth" else 3
                    shapes[top] = (1, channels, height, width)
        return shapes

    def _has_deploy(self, phase: int) -> bool:
        try:
            return bool(Graph.from_param(self.param(phase, (DEPLOY,))).inputs)
        except FcnCaffeError:
            return False


def data_nodes(graph: Graph, inputs: bool = False) -> list[Node]:
    """Return the layers that bring images and labels in. inputs: Input layers too."""
    types = (*_DATA, "Input") if inputs else _DATA
    return [node for node in graph.nodes if not node.bottoms and node.tops and node.type in types]


def read_subject(
    path: str | os.PathLike[str], size: tuple[int, int] | None = None, paths: Paths | None = None
) -> Subject:
    """Read a net or solver file; what it is is told by its fields. size: of the images, (H, W), instead of their own.

    paths: what relative paths start from.

    Raises: PrototxtError with file:line; SolverError for a solver without a net.
    """
    paths = Paths() if paths is None else paths
    place = paths.from_root(path)
    text = place.read_text(encoding="utf-8", errors="replace") if place.is_file() else ""
    if not _SOLVER_FIELD.search(_COMMENT.sub("", text)):
        read_net(place, TRAIN)  # a file that is no net is said here
        return Subject(place, None, {TRAIN: place, TEST: place}, size, paths=paths)
    settings = Settings(place, paths)
    param = settings.param
    sources: dict[int, Path | caffe_pb2.NetParameter] = {}
    for phase, fields in ((TRAIN, ("train_net", "train_net_param")), (TEST, ("test_net", "test_net_param"))):
        for name in (*fields, "net", "net_param"):
            value = getattr(param, name)
            value = (value[0] if value else "") if name in ("test_net", "test_net_param") else value
            is_set = bool(value) if isinstance(value, str) else value.ByteSize() > 0
            if is_set and phase not in sources:
                sources[phase] = settings.find(value, f"{name} file") if isinstance(value, str) else value
    if TRAIN not in sources:
        raise settings.error("names no net to train. Give net: or train_net:.")
    sources.setdefault(TEST, sources[TRAIN])
    asked = {TRAIN: [param.train_state] if param.HasField("train_state") else [], TEST: list(param.test_state[:1])}
    subject = Subject(place, settings, sources, size, paths=paths)
    for phase, states in asked.items():
        with suppress(PrototxtError):  # said when it is built
            subject.states[phase] = settings.state(sources[phase], phase, states)
    return subject


def tested_subjects(subject: Subject) -> list[Subject]:
    """Return a subject for each net that a solver tests, in Caffe's order; the subject alone for a net's file.

    Raises: SolverError where the test nets are not given as Caffe takes them; PrototxtError where one cannot be read.
    """
    settings = subject.settings
    sources = [] if settings is None else settings.test_sources()
    if settings is None or len(sources) < 2:
        return [subject]
    states = list(settings.param.test_state)
    subjects = []
    for index, (name, source) in enumerate(sources):
        net = settings.find(source, f"{name} file") if isinstance(source, str) else source
        state = settings.state(net, TEST, states[index : index + 1])
        tested = {**subject.sources, TEST: net}, {**subject.states, TEST: state}
        subjects.append(replace(subject, sources=tested[0], states=tested[1]))
    return subjects
