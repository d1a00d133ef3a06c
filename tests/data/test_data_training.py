"""Training from databases and lists: two seeded runs are one, and so are a run and its resumed half."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datum_fixtures import images, write_database, write_images

from fcn_caffe.training.solver import Solver

SOURCES = {
    "Data": 'data_param {{ source: "{folder}/db" batch_size: 3 backend: LMDB prefetch: {prefetch} }}',
    "ImageData": 'data_param {{ prefetch: {prefetch} }} image_data_param {{ source: "{folder}/list.txt" '
    'root_folder: "{folder}/" batch_size: 3 shuffle: true }}',
    "ImageSegData": 'top: "dim" data_param {{ prefetch: {prefetch} }} image_data_param {{ source: "{folder}/list.txt" '
    'root_folder: "{folder}/" batch_size: 3 shuffle: true }}',
}
# One score for each image, or one for each pixel.
SCORES = (
    'type: "InnerProduct" inner_product_param { num_output: 61 weight_filler { type: "xavier" } }',
    'type: "Convolution" convolution_param { num_output: 61 kernel_size: 1 weight_filler { type: "xavier" } }',
)


def make_solver(folder: Path, type: str, prefetch: int = 4) -> Solver:
    """A linear layer on random crops and mirrors, tested on the same data."""
    if not (folder / "db").exists():
        pictures = images(7, 6, 6)
        write_database(folder / "db", pictures)
        write_images(folder, pictures)
    source = SOURCES[type].format(folder=folder, prefetch=prefetch)
    (folder / "net.prototxt").write_text(f"""
layer {{ name: "data" type: "{type}" top: "data" top: "label" {source}
  transform_param {{ crop_size: 4 mirror: true scale: 0.01 mean_value: 128 }} }}
layer {{ name: "score" bottom: "data" top: "score" {SCORES[type == "ImageSegData"]} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }}
""")
    (folder / "solver.prototxt").write_text(f"""
net: "net.prototxt" test_iter: 2 test_interval: 2 base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 max_iter: 20
random_seed: 5 snapshot_prefix: "{folder}/run" solver_mode: CPU
""")
    return Solver(folder / "solver.prototxt", device="cpu", base=folder)


def weights(solver: Solver) -> list[np.ndarray]:
    return [blob.detach().numpy().copy() for blobs in solver.net.params.values() for blob in blobs]


def equal(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("type", sorted(SOURCES))
def test_seeded_runs_and_resumed_ones_are_the_same_run(tmp_path: Path, type: str) -> None:
    solver = make_solver(tmp_path, type)
    solver.step(3)
    half = weights(solver)
    state = solver.snapshot()
    solver.step(4)
    for prefetch in (0, 2):
        again = make_solver(tmp_path, type, prefetch)
        again.step(7)
        assert equal(weights(again), weights(solver))
    resumed = make_solver(tmp_path, type)
    resumed.step(1)
    resumed.restore(state)
    assert equal(weights(resumed), half)
    resumed.step(4)
    assert equal(weights(resumed), weights(solver))
    assert not equal(half, weights(solver))
