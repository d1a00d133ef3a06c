"""HHA: a room whose every number is known, and the official MATLAB software's own picture."""

import numpy as np
import pytest
from needs import needs_data
from PIL import Image
from places import SHARED

from fcn_caffe.commands.hha import main
from fcn_caffe.data.hha import (
    KINECT_COLOUR,
    Camera,
    angle_with,
    fill_depth,
    gravity,
    height_above_ground,
    hha,
    normals,
    points,
)
from fcn_caffe.errors import DataError
from fcn_caffe.paper.experiments.hha_of_a_room import CAMERA, CEILING, FLOOR, SIZE, draw_room, is_on_one_surface

SAMPLES = SHARED / "data" / "samples" / "HHA"


@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (10, 0), (-12, 4), (8, -15)])
def test_normals_of_planes_are_exact(pitch, roll):
    depth, down, surfaces = draw_room(pitch, roll)
    normal = normals(points(depth, CAMERA), 3)
    where = is_on_one_surface(surfaces, 3)
    assert len(set(surfaces[where].tolist())) >= 2
    for surface, direction in ((0, down), (2, -down)):
        directions = normal[where & (surfaces == surface)]
        assert np.allclose(directions, direction, atol=1e-6)  # away from the camera
    assert np.allclose(normal[where & (surfaces == 1)] @ down, 0, atol=1e-6)


@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (10, 0), (-12, 4), (8, -15)])
def test_gravity_of_a_turned_camera(pitch, roll):
    depth, down, surfaces = draw_room(pitch, roll)
    clean = normals(points(depth, CAMERA), 3)[is_on_one_surface(surfaces, 3)]
    assert np.allclose(gravity(clean), down, atol=1e-6)
    assert {0, 1} <= set(surfaces.ravel().tolist())
    # Windows over the edges of the room blur it by less than a degree.
    blurred = gravity(normals(points(depth, CAMERA), 10))
    assert np.degrees(np.arccos(min(1.0, blurred @ down))) < 1


def test_gravity_before_a_single_wall_is_the_camera_s_down():
    normal = normals(points(np.full((60, 80), 2.0), CAMERA), 3)
    assert np.allclose(gravity(normal), (0, 1, 0), atol=1e-6)
    assert np.allclose(gravity(np.full((4, 3), np.nan)), (0, 1, 0))


def test_a_level_room():
    depth, down, surfaces = draw_room()
    picture, where = hha(depth, CAMERA), is_on_one_surface(surfaces, 4)
    disparity, height, angle = np.moveaxis(picture.astype(int), -1, 0)
    assert np.array_equal(disparity, np.floor(np.minimum(310, 310 / depth).clip(0, 255) + 0.5))
    assert set(disparity[surfaces == 1].tolist()) == {78}  # 31000 / 400 cm = 77.5
    for surface, degrees in ((0, 0), (1, 90), (2, 180)):
        assert np.abs(angle[where & (surfaces == surface)] - (degrees + 38)).max() <= 1
    assert np.abs(height[surfaces == 0]).max() <= 2
    assert np.abs(height[surfaces == 2] - 255).max() <= 2 and FLOOR + CEILING > 2.55  # 260 cm, cut at 255
    expected = height_above_ground(points(depth, CAMERA), down)
    assert np.abs(expected[surfaces == 0]).max() < 1e-9 and np.abs(expected[surfaces == 2] - 260).max() < 1e-9
    assert np.allclose(angle_with(normals(points(depth, CAMERA), 3), down)[where & (surfaces == 1)], 90, atol=1e-4)


def test_no_floor_in_sight():
    cloud = points(np.full((30, 40), 2.0), Camera(500, 500, 20, 15))
    down = np.array([0.0, 1.0, 0.0])
    height = height_above_ground(cloud, down)
    assert height == pytest.approx(130 - cloud[:, :, 1])


def test_near_things_have_one_disparity():
    assert set(hha(np.full((40, 40), 0.5), CAMERA)[:, :, 0].ravel().tolist()) == {255}


def test_holes_take_the_nearest_depth():
    depth = np.array([[2.0, 0.0, np.nan, 4.0], [2.0, 2.0, np.inf, 4.0]])
    filled = fill_depth(depth)
    assert filled[0].tolist() == [2, 2, 4, 4] and filled[1, 2] in (2, 4)  # as near to both
    with pytest.raises(DataError, match="no pixel has a depth"):
        fill_depth(np.zeros((2, 2)))
    with pytest.raises(DataError, match="a depth image has two axes, this one 3"):
        hha(np.ones((2, 2, 3)))
    full, _, _ = draw_room(5)
    holes = full.copy()
    holes[40:44, 50:54] = 0
    assert np.abs(hha(holes, CAMERA).astype(int) - hha(full, CAMERA)).mean() < 1


def sample(name):
    with Image.open(needs_data(f"data/samples/HHA/{name}")) as image:
        return np.asarray(image)


def test_the_official_picture_to_the_last_bit():
    depth, official = sample("0.png"), sample("matlab_hha.png")
    difference = np.abs(hha(depth / 10000, KINECT_COLOUR).astype(int) - official).mean((0, 1))
    assert difference.tolist() == [0, 0, 0]


def test_the_official_picture_with_holes_filled():
    depth, official = sample("0_raw.png"), sample("matlab_hha.png")
    assert (depth == 0).mean() > 0.2
    difference = np.abs(hha(depth / 10000).astype(int) - official).mean((0, 1))
    assert (difference < (1, 6, 8)).all()


def save_depth(path, units=1000, shape=(480, 640), camera=KINECT_COLOUR):
    depth, _, _ = draw_room(5, 0, camera, shape)
    stored = np.round(depth * units).astype(np.uint16)
    Image.fromarray(stored).save(path)
    return stored / units


@pytest.mark.parametrize("units", [1000, 10000])
def test_command(tmp_path, capsys, units):
    depth = save_depth(tmp_path / "depth.png", units)
    assert main([str(tmp_path / "depth.png"), str(tmp_path / "hha.png")]) == 0
    assert f"640x480, {units} units a metre" in capsys.readouterr().out
    with Image.open(tmp_path / "hha.png") as saved:
        assert np.array_equal(np.asarray(saved), hha(depth))


def test_command_with_another_camera_and_folders(tmp_path, capsys):
    (tmp_path / "depth").mkdir()
    depth = save_depth(tmp_path / "depth" / "a.png", 1000, SIZE, CAMERA)
    assert main([str(tmp_path / "depth"), str(tmp_path / "out"), "--focal", "90", "95"]) == 0
    with Image.open(tmp_path / "out" / "a.png") as saved:
        assert np.array_equal(np.asarray(saved), hha(depth, CAMERA))
    assert main([str(tmp_path / "depth"), str(tmp_path / "out")]) == 1
    assert "is 160x120. The camera is known for 640x480" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((480, 640), np.uint16), [], "no pixel has a depth"),
        (np.zeros((480, 640, 3), np.uint8), [], "a depth image has one channel of integers"),
        (np.full((480, 640), 2000, np.uint16), ["--focal", "0"], "numbers of pixels from 0.001"),
        (np.full((480, 640), 2000, np.uint16), ["--units-per-metre", "-1"], "should be a number from 0.001"),
        (np.full((480, 640), 2000, np.uint16), ["--units-per-metre", "1e300"], "should be a number from 0.001"),
        (np.full((480, 640), 2000, np.uint16), ["--focal", "1e300"], "numbers of pixels from 0.001 to 1e6"),
        (np.full((480, 640), 400000, np.int32), [], "lies beyond 40 m"),  # as TIFF: PNG has 16 bits
    ],
)
def test_command_refuses(tmp_path, capsys, array, options, message):
    depth = tmp_path / ("depth.tiff" if array.dtype == np.int32 else "depth.png")
    Image.fromarray(array).save(depth)
    assert main([str(depth), str(tmp_path / "hha.png"), *options]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "hha.png").exists()


def test_a_folder_has_one_unit(tmp_path, capsys):
    """A close-up in tenths of a millimetre would pass for a hall in millimetres by itself."""
    for name, metres in (("far", 3.0), ("near", 0.9)):
        Image.fromarray(np.full((480, 640), metres * 10000, np.uint16)).save(tmp_path / f"{name}.png")
    assert main([str(tmp_path), str(tmp_path / "hha")]) == 0
    assert capsys.readouterr().out.count("10000 units a metre") == 2


def test_command_refuses_files(tmp_path, capsys):
    save_depth(tmp_path / "depth.png")
    assert main([str(tmp_path / "depth.png"), str(tmp_path / "hha.jpg")]) == 1
    assert "write HHA as PNG" in capsys.readouterr().err
    assert main([str(tmp_path), str(tmp_path)]) == main([str(tmp_path / "depth.png")] * 2) == 1
    assert "is the depth itself" in capsys.readouterr().err
    assert main([str(tmp_path / "gone.png"), str(tmp_path / "hha.png")]) == 1
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), str(tmp_path / "out")]) == 1
    assert "has no PNGs" in capsys.readouterr().err
