"""infer's answers: sub-folders, batches, threads, damaged files, clashes, probabilities, legends, GIF, TIFF, films."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net
from PIL import Image

from fcn_caffe.commands import infer
from fcn_caffe.data.readers import image_files
from fcn_caffe.data.readers.frames import count_pages, film_rate, read_film, read_pages
from fcn_caffe.errors import DataError
from fcn_caffe.evaluation import AnswerFiles, AnswerRun, Average, Segmenter, answer_run, answers, find_files, tiles
from fcn_caffe.evaluation import infer as segmenting
from fcn_caffe.evaluation.crf import DenseCrf
from fcn_caffe.host import free_memory, pictures
from fcn_caffe.host.films import film_writer
from fcn_caffe.net.net import Net
from fcn_caffe.weights.record import Preprocessing, write_preprocessing
from fcn_caffe.weights.transfer import save_net

CLASSES = 3
CONVOLUTIONS = (
    layer("wide", "Convolution", "data", more="convolution_param { num_output: 4 kernel_size: 5 pad: 2 }"),
    layer("relu", "ReLU", "wide", "wide"),
    layer("score", "Convolution", "wide", more="convolution_param { num_output: 3 kernel_size: 3 pad: 1 }"),
)
Infer = Callable[..., int]


def small_net(*layers: str) -> Net:
    """A net of three classes whose answers vary over an image of noise."""
    net = make_net(input_layer("data", 1, 3, 8, 8), *(layers or CONVOLUTIONS))
    generator = torch.Generator().manual_seed(0)
    for item in net.learnable_params:
        item.blob.data.normal_(0, 0.05, generator=generator)
    return net.eval()


def noise(*size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def save(path: Path, *size: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(*size, seed=seed)).save(path)
    return path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def listed(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A net of three classes with weights."""
    (tmp_path / "net.prototxt").write_text("".join((input_layer("data", 1, 3, 8, 8), *CONVOLUTIONS)))
    save_net(tmp_path / "net.caffemodel", small_net())
    return tmp_path


@pytest.fixture
def photos(place: Path) -> Path:
    """Five photographs of two sizes in two folders."""
    for index, (name, size) in enumerate(
        {"a": (9, 12), "b": (7, 8), "c": (9, 12), "in/a": (9, 12), "in/deep/d": (7, 8)}.items()
    ):
        save(place / "photos" / f"{name}.png", *size, seed=index)
    return place / "photos"


@pytest.fixture
def run(place: Path) -> Infer:
    def run_infer(*words: object, out: str = "out") -> int:
        net = ("--net", place / "net.prototxt", "--weights", place / "net.caffemodel", "--mean", "100", "100", "100")
        return infer.main([*map(str, words), *map(str, net), "--out", str(place / out)])

    return run_infer


# -- which files, and what their answers are called --------------------------------------------------------------------


def test_sub_folders_are_kept(photos: Path, place: Path, run: Infer) -> None:
    save(photos / ".hidden" / "x.png", 5, 5)
    (photos / "in" / "loop").symlink_to(photos)
    assert run(photos, "--recursive", out="photos/answers") == 0
    wanted = [f"{name}{end}" for name in ("a", "b", "c", "in/a", "in/deep/d") for end in (".png", "_overlay.jpg")]
    assert listed(photos / "answers") == sorted(wanted)
    assert run(photos, "--recursive", out="photos/answers") == 0  # which does not answer its own answers
    assert listed(photos / "answers") == sorted(wanted)


def test_batches_and_threads_give_the_same_files(photos: Path, place: Path, run: Infer, capsys) -> None:
    more = ("--recursive", "--confidence", "grey", "--probabilities", "npz")
    assert run(photos, *more, out="plain") == 0
    lines = capsys.readouterr().out.splitlines()
    assert run(photos, *more, "--batch", 2, "--workers", 2, out="other") == 0
    other = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0].rpartition("photos/")[2] for line in lines[:-1]] == [
        *("a.png", "b.png", "c.png", "in/a.png", "in/deep/d.png")
    ]
    assert [line.split(": ")[0].rpartition("photos/")[2] for line in other[:-1]] == [
        *("a.png", "c.png", "in/a.png", "b.png", "in/deep/d.png")  # size by size
    ]
    names = listed(place / "plain")
    assert len(names) == 20 and names == listed(place / "other")
    for name in names:
        if name.endswith("npz"):
            first, second = (np.load(place / folder / name)["probabilities"] for folder in ("plain", "other"))
            np.testing.assert_allclose(first, second, atol=1e-6)
        else:
            assert (read(place / "plain" / name) == read(place / "other" / name)).all()


def test_damaged_files_do_not_end_the_run(photos: Path, place: Path, run: Infer, capsys) -> None:
    (photos / "b.png").write_bytes(b"no image")
    (photos / "in" / "short.png").write_bytes((photos / "a.png").read_bytes()[:150])
    for more in ((), ("--batch", 2, "--workers", 2)):
        assert run(photos, "--recursive", *more) == 1
        said = capsys.readouterr()
        assert f"error: {photos}/b.png: not an image Pillow can read." in said.err
        assert "error: 2 of 6 files have no answer: " in said.err
        assert "wrote 4 label PNGs" in said.out
    assert not (place / "out" / "b.png").exists() and (place / "out" / "c.png").exists()


def test_an_image_that_the_net_cannot_run_is_named(place: Path, run: Infer, capsys) -> None:
    text = (place / "net.prototxt").read_text()
    (place / "net.prototxt").write_text(text.replace("kernel_size: 5 pad: 2", "kernel_size: 5 pad: 2 stride: 1"))
    small = text.replace("kernel_size: 3 pad: 1", "kernel_size: 3 pad: 0")
    (place / "net.prototxt").write_text(small)
    save(place / "photos" / "a.png", 9, 12)
    save(place / "photos" / "b.png", 9, 12)
    assert run(place / "photos", "--batch", 2) == 1
    error = capsys.readouterr().err
    for name in ("a", "b"):
        assert f"error: {place}/photos/{name}.png: net '" in error
    assert "blob 'score' is 1x3x7x10 for an image of 9x12" in error


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("a.png", "a.jpg"), (), "a.png: {photos}/a.png and {photos}/a.jpg would be written to the same file."),
        (("a.png", "a_confidence.jpg"), ("--confidence", "grey"), "a_confidence.png: "),
        (("a.gif", "a_0001.png"), ("--frames",), "a_0001.png: "),
        (("a.mp4", "a/000001.png"), ("--frames", "--recursive"), "a/000001.png: "),
        (("a_probabilities/b.png", "a.png"), ("--probabilities", "png", "--recursive"), "a_probabilities/b.png: "),
    ],
)
def test_clashes_are_found_first(names, options, message: str, place: Path, run: Infer, capsys) -> None:
    photos = place / "photos"
    for name in names:
        if name.endswith("mp4"):
            photos.mkdir()
            (photos / name).write_bytes(b"")
        elif name.endswith("gif"):
            save(photos / name, 5, 5)
            frames = [Image.fromarray(noise(5, 5, seed=seed)) for seed in (1, 2)]
            frames[0].save(photos / name, save_all=True, append_images=frames[1:])
        else:
            save(photos / name, 5, 5)
    (place / "net.caffemodel").write_bytes(b"not read")
    assert run(photos, *options) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {place}/out/{message.format(photos=photos)}")
    assert "would be written to the same file" in error and not (place / "out").exists()


def test_answers_do_not_replace_images(photos: Path, place: Path, run: Infer, capsys) -> None:
    before = (photos / "a.png").read_bytes()
    assert run(photos, out="photos") == 1
    assert "would replace the image" in capsys.readouterr().err
    assert (photos / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tile", 8, "--crf"), "--tile 8: a CRF needs images whole. Leave out --tile, or --crf."),
        (("--tile", 8, "--batch", 2), "--tile 8: images in parts are run one at a time. Leave out --tile, or --batch."),
        (("--recursive", "--voc-results", "server"), "Leave out --recursive, or --voc-results."),
        (("--frames", "--voc-results", "server"), "Leave out --frames, or --voc-results."),
        (("clip.mp4", "--voc-results", "server"), "--voc-results: clip.mp4 is a film"),
        (("--scales", "1", "99"), "scales: got 99. Give numbers above 0 and at most 16"),
        (("--device", "tpu9"), "device 'tpu9' is unknown. Use cpu, cuda or cuda:N."),
    ],
)
def test_options_are_refused_before_the_net_is_loaded(options, message: str, photos: Path, run: Infer, capsys) -> None:
    (photos.parent / "net.caffemodel").write_bytes(b"not read")
    assert run(photos, *options) == 1
    assert message in capsys.readouterr().err
    assert not (photos.parent / "out").exists()


@pytest.mark.needs_cuda(False)
def test_a_missing_gpu_is_said(photos: Path, run: Infer, capsys) -> None:
    assert run(photos, "--device", "cuda") == 1
    assert "device 'cuda' was asked for, but torch" in capsys.readouterr().err


def test_places_that_cannot_be_written_to(photos: Path, place: Path, run: Infer, capsys) -> None:
    (place / "file").write_text("")
    assert run(photos, out="file/out") == 1
    assert f"{place}/file is a file, not a folder" in capsys.readouterr().err


def test_existing_answers_are_skipped(photos: Path, place: Path, run: Infer, capsys) -> None:
    more = ("--recursive", "--probabilities", "png")
    assert run(photos, *more) == 0
    (place / "out" / "b_probabilities" / "02.png").unlink()
    (place / "out" / "in" / "a_overlay.jpg").unlink()
    before = (place / "out" / "a.png").stat().st_mtime_ns
    capsys.readouterr()
    assert run(photos, *more, "--skip-existing") == 0
    out = capsys.readouterr().out
    assert "3 of 5 files are answered already" in out and "wrote 2 label PNGs" in out
    assert (place / "out" / "a.png").stat().st_mtime_ns == before
    assert len(listed(place / "out")) == 25


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interruption_leaves_whole_files(workers: int, photos: Path, place: Path, run, capsys, monkeypatch) -> None:
    write, calls, lock = AnswerFiles.write, [], threading.Lock()

    def count(*arguments, **options) -> None:
        with lock:
            calls.append(1)
        write(*arguments, **options)

    answer = Segmenter.answer

    def interrupted(self, images, **options):
        if images[0].shape[:2] == (7, 8):  # the second
            raise KeyboardInterrupt
        return answer(self, images, **options)

    monkeypatch.setattr(AnswerFiles, "write", count)
    monkeypatch.setattr(Segmenter, "answer", interrupted)
    assert run(photos, "--recursive", "--workers", workers) == 130
    done = len(calls)
    assert done <= 1 and (done == 1 or workers)  # what a thread has not begun is not written
    left = f"{done} of 5 files are done. --skip-existing runs the other {5 - done}."
    assert capsys.readouterr().err == f"interrupted: {left}\n"
    assert listed(place / "out") == ["a.png", "a_overlay.jpg"][: 2 * done]
    monkeypatch.setattr(Segmenter, "answer", answer)
    assert run(photos, "--recursive", "--skip-existing") == 0
    assert len(listed(place / "out")) == 10


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_ends_the_run(workers: int, photos: Path, place: Path, run, capsys, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "answer")

    monkeypatch.setattr(AnswerFiles, "write", full)
    assert run(photos, "--workers", workers) == 1
    assert capsys.readouterr().err == "error: answer: No space left on device. Make room on the disk.\n"


# -- what is written ---------------------------------------------------------------------------------------------------


def test_probabilities_are_the_softmax(place: Path, run: Infer) -> None:
    image = save(place / "a.png", 9, 12)
    assert run(image, "--probabilities", "npz", "--confidence", "grey") == 0
    assert run(image, "--probabilities", "png", "--confidence", "colour", out="png") == 0
    blob = torch.from_numpy(read(image)[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) - 100)[None]
    with torch.no_grad():
        wanted = small_net()({"data": blob})["score"][0].softmax(0).numpy()
    made = np.load(place / "out" / "a_probabilities.npz")["probabilities"]
    assert made.shape == (CLASSES, 9, 12) and made.dtype == np.float32
    np.testing.assert_allclose(made, wanted, atol=1e-6)
    planes = [read(place / "png" / "a_probabilities" / f"{index:02d}.png") for index in range(CLASSES)]
    assert planes[0].dtype == np.uint16 or planes[0].dtype == np.int32
    np.testing.assert_allclose(np.stack(planes) / 65535, wanted, atol=0.51 / 65535 + 1e-6)
    grey, colour = read(place / "out" / "a_confidence.png"), read(place / "png" / "a_confidence.png")
    np.testing.assert_allclose(grey / 255, wanted.max(0), atol=0.51 / 255)
    assert (colour == pictures.colour_of_shares(wanted.max(0))).all()
    assert (read(place / "out" / "a.png") == wanted.argmax(0)).all()


def test_large_images_give_the_same_in_parts_and_on_disk(tmp_path: Path, monkeypatch) -> None:
    net, image = small_net(), noise(20, 31)
    (whole,) = Segmenter(net, (100, 100, 100), tile=0).answer([image], probabilities=True, confidence=True)
    monkeypatch.setattr(segmenting, "ON_DISK", 100)
    segment = Segmenter(net, (100, 100, 100), tile=7)
    (parts,) = segment.answer([image], probabilities=True, confidence=True, folder=tmp_path)
    assert isinstance(parts.probabilities, np.memmap) and not list(tmp_path.iterdir())
    assert (parts.labels == whole.labels).all()
    np.testing.assert_allclose(parts.probabilities, whole.probabilities, atol=1e-6)
    np.testing.assert_allclose(parts.confidence, whole.confidence, atol=1e-6)
    files = AnswerFiles(tmp_path, probabilities="npz")
    (file,) = find_files([save(tmp_path / "i.png", 20, 31)])
    files.write(next(file.read()), parts)
    assert (np.load(tmp_path / "i_probabilities.npz")["probabilities"] == parts.probabilities).all()


@pytest.mark.parametrize("tile", [0, 7])
def test_scales_and_mirror_average_probabilities(tile: int) -> None:
    net, image = small_net(), noise(10, 14)
    segment = Segmenter(net, (100, 100, 100), tile=tile, average=Average((0.5, 1.0), mirror=True))
    (made,) = segment.answer([image], probabilities=True)

    def shares(rgb: np.ndarray) -> torch.Tensor:
        blob = torch.from_numpy(rgb[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) - 100)[None]
        with torch.no_grad():
            return net({"data": blob})["score"].softmax(1)

    half = np.asarray(Image.fromarray(image).resize((7, 5), Image.Resampling.BILINEAR))
    four = [shares(half), shares(half[:, ::-1]).flip(3), shares(image), shares(image[:, ::-1]).flip(3)]
    full = [torch.nn.functional.interpolate(each, (10, 14), mode="bilinear", align_corners=False) for each in four]
    wanted = sum(full)[0] / 4
    np.testing.assert_allclose(made.probabilities, wanted.numpy(), atol=1e-6)
    assert (made.labels == wanted.argmax(0).numpy()).all()
    batch = segment.answer([image, noise(10, 14, seed=1)], probabilities=True)
    np.testing.assert_allclose(batch[0].probabilities, made.probabilities, atol=1e-6)
    with pytest.raises(DataError, match="scales: got none"):
        Average(())


def test_a_crf_refines_what_was_averaged() -> None:
    net, image = small_net(), noise(10, 14)
    off = DenseCrf(pos_w=0, bi_w=0)
    plain = Segmenter(net, (0, 0, 0), average=Average((1.0,), True)).answer([image], probabilities=True)[0]
    refined = Segmenter(net, (0, 0, 0), crf=off, average=Average((1.0,), True)).answer([image], probabilities=True)[0]
    np.testing.assert_allclose(plain.probabilities, refined.probabilities, atol=1e-5)


def test_an_average_that_does_not_fit_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("fcn_caffe.evaluation.average.free_bytes", lambda device: 1000)
    with pytest.raises(DataError, match=r"average over 2 sizes of this image takes about .* 1000 bytes are free"):
        Segmenter(small_net(), (0, 0, 0), average=Average((1, 2)))(noise(10, 14))


def test_batches_fit_into_memory(monkeypatch) -> None:
    segment = Segmenter(small_net(), (0, 0, 0))
    assert segment.fitting_batch(10, 14, 5) == 5
    three = tiles.forward_bytes(segment.net, {"data": (3, 3, 10, 14)})
    monkeypatch.setattr(tiles, "WHOLE", three)
    assert segment.fitting_batch(10, 14, 5) == 3
    assert segment.fitting_batch(100, 140, 5) == 1


def test_nets_whose_images_change_each_other_take_no_batches(tmp_path: Path) -> None:
    counting = layer("score", "BatchNorm", "data", more="batch_norm_param { use_global_stats: false }")
    segment = Segmenter(small_net(counting), (0, 0, 0))
    with pytest.raises(DataError, match=r"score.* counts over its batch.* Leave out --batch"):
        AnswerRun(segment, AnswerFiles(tmp_path), batch=2)
    with pytest.raises(DataError, match="counts over its batch"):
        segment.answer([noise(5, 5), noise(5, 5)])
    one = layer("score", "Reshape", "data", more="reshape_param { shape { dim: 1 dim: -1 dim: 0 dim: 0 } }")
    with pytest.raises(DataError, match="The net takes one image at a time: leave out --batch"):
        Segmenter(small_net(one), (0, 0, 0)).answer([noise(5, 5), noise(5, 5)])


def test_legends_name_the_classes_of_the_picture(place: Path, run: Infer) -> None:
    image = save(place / "a.png", 40, 60)
    red = [(0, 0, 0), (250, 0, 0), (0, 0, 250)]
    record = Preprocessing(classes=("ground", "horse", "sky"), colors=tuple(red))
    write_preprocessing(place / "net.caffemodel", record)
    assert run(image, out="plain") == 0 and run(image, "--legend") == 0
    with Image.open(place / "out" / "a.png") as labels:
        assert labels.getpalette()[:9] == [*red[0], *red[1], *red[2]]
    plain, legend = read(place / "plain" / "a_overlay.jpg"), read(place / "out" / "a_overlay.jpg")
    assert plain.shape == (40, 60, 3) and legend.shape[0] > 40 + 3 * 12
    assert np.abs(plain[:, :56].astype(int) - legend[:40, :56]).mean() < 4  # JPEG blocks apart
    swatches = legend[40:].reshape(-1, 3).astype(int)
    for colour in red[1:]:
        assert (np.abs(swatches - colour).max(1) < 40).sum() > 50


def test_colours_of_a_card_beside_the_net(place: Path, run: Infer) -> None:
    image = save(place / "a.png", 9, 12)
    (place / "classes.txt").write_text("0: ground  # 0 0 0\n1: horse  # 9 8 7\n2: sky  # 1 2 3\n")
    write_preprocessing(place / "net.caffemodel", Preprocessing("BGR"))
    assert run(image) == 0
    with Image.open(place / "out" / "a.png") as labels:
        assert labels.getpalette()[:9] == [0, 0, 0, 9, 8, 7, 1, 2, 3]


def test_letters_that_the_font_has_not() -> None:
    with_accents = pictures.add_legend(noise(20, 30), [((1, 2, 3), "1 Bär 馬")])
    without = pictures.add_legend(noise(20, 30), [((1, 2, 3), "1 Bar ?")])
    assert with_accents.shape == without.shape
    assert pictures.add_legend(noise(20, 30), []).shape == (20, 30, 3)


@pytest.mark.parametrize("source", ["record", "card", "data set", "other count"])
def test_where_names_come_from(source: str, place: Path, run: Infer, capsys) -> None:
    image, wanted = save(place / "a.png", 9, 12), "horse"
    if source == "record":
        write_preprocessing(place / "net.caffemodel", Preprocessing(classes=("horse",) * 3))
    elif source == "card":
        (place / "classes.txt").write_text("0: horse\n1: horse\n2: horse\n")
    elif source == "data set":
        (place / "layers_of_mine.py").write_text("CLASSES = ['horse'] * 3\nMEAN = (1, 2, 3)\n")
        data = 'layer { name: "d" type: "Python" top: "data" include { not_stage: "deploy" } '
        python = 'python_param { module: "layers_of_mine" layer: "None" } }\n'
        text = (place / "net.prototxt").read_text()
        (place / "net.prototxt").write_text(data + python + 'layer { include { stage: "deploy" } ' + text[7:])
    else:
        write_preprocessing(place / "net.caffemodel", Preprocessing(classes=("horse",) * 4))
        wanted = " 2 "
    assert run(image) == 0
    assert wanted in capsys.readouterr().out


# -- files of several pictures -----------------------------------------------------------------------------------------


def save_pages(path: Path, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    pages = [noise(*size, seed=seed) // 64 * 64 for seed, size in enumerate(sizes)]
    images = [Image.fromarray(page) for page in pages]
    images[0].save(path, save_all=True, append_images=images[1:])
    return pages


@pytest.mark.parametrize("workers", [0, 2])
def test_pages_of_tiff_files(workers: int, place: Path, run: Infer, capsys) -> None:
    pages = save_pages(place / "scan.tif", [(9, 12), (6, 5), (9, 12)])
    assert run(place / "scan.tif") == 0
    assert listed(place / "out") == ["scan.png", "scan_overlay.jpg"]  # the first alone, unless asked for
    assert run(place / "scan.tif", "--frames", "--workers", workers, out="all") == 0
    names = [f"scan_000{number}" for number in (1, 2, 3)]
    assert listed(place / "all") == sorted(f"{name}{end}" for name in names for end in (".png", "_overlay.jpg"))
    segment = Segmenter(small_net(), (100, 100, 100))
    for name, page in zip(names, pages, strict=True):
        assert (read(place / "all" / f"{name}.png") == segment(page)).all()
    assert "scan.tif 2: 5x6" in capsys.readouterr().out


def test_frames_of_gif_files(place: Path, run: Infer, capsys) -> None:
    save_pages(place / "photos.gif", [(9, 12)] * 3)
    assert run(place / "photos.gif", "--frames", "--batch", 2) == 0
    assert len(listed(place / "out")) == 6
    save(place / "one.gif", 9, 12)
    assert run(place / "one.gif", "--frames", out="one") == 0
    assert listed(place / "one") == ["one.png", "one_overlay.jpg"]
    (place / "photos.gif").write_bytes((place / "photos.gif").read_bytes()[:-300])
    capsys.readouterr()
    assert run(place / "photos.gif", "--frames", out="cut") == 1
    assert "photos.gif" in capsys.readouterr().err


def test_gif_files_cut_off_anywhere(tmp_path: Path) -> None:
    pages = save_pages(tmp_path / "whole.gif", [(9, 12)] * 3)
    data, kinds = (tmp_path / "whole.gif").read_bytes(), set()
    for stop in range(len(data) // 4, len(data), 3):
        (tmp_path / "cut.gif").write_bytes(data[:stop])
        try:
            count = count_pages(tmp_path / "cut.gif")
            kinds.add(len(list(read_pages(tmp_path / "cut.gif"))) == count)
        except DataError as error:
            kinds.add(type(error.__cause__).__name__)
    assert len(pages) == 3 and kinds >= {True, "IndexError", "error"}


def save_film(path: Path, count: int, *size: int, rate: Fraction = Fraction(25, 2)) -> None:
    with film_writer(path, rate) as add:
        for number in range(count):
            add(np.full((*size, 3), 20 * number, np.uint8), None)


@pytest.mark.needs_package("av")
@pytest.mark.parametrize("workers", [0, 2])
def test_films(workers: int, place: Path, run: Infer, capsys) -> None:
    save_film(place / "clip.mp4", 5, 32, 48)
    assert run(place / "clip.mp4", "--legend", "--batch", 2, "--workers", workers) == 0
    labels = [f"clip/{number:06d}.png" for number in range(1, 6)]
    assert listed(place / "out") == [*labels, "clip_overlay.mp4"]
    assert "clip.mp4: 5 frames, " in capsys.readouterr().out
    assert film_rate(place / "out" / "clip_overlay.mp4") == Fraction(25, 2)
    given, made = (list(read_film(path)) for path in (place / "clip.mp4", place / "out" / "clip_overlay.mp4"))
    assert [frame.time for frame in given] == [frame.time for frame in made]
    segment = Segmenter(small_net(), (100, 100, 100))
    for name, frame in zip(labels, given, strict=True):
        assert (read(place / "out" / name) == segment(frame.rgb)).all()
    assert made[0].rgb.shape[0] > 32 and made[0].rgb.shape[0] % 2 == 0
    assert run(place / "clip.mp4", "--skip-existing") == 0
    assert "wrote 0 label PNGs" in capsys.readouterr().out


@pytest.mark.needs_package("av")
def test_a_film_that_breaks_off_leaves_no_overlays(place: Path, run: Infer, capsys) -> None:
    save_film(place / "clip.mp4", 5, 32, 48)
    data = bytearray((place / "clip.mp4").read_bytes())
    (place / "cut.mp4").write_bytes(data[: len(data) // 2])
    save(place / "a.png", 5, 5)
    assert run(place / "cut.mp4", place / "a.png") == 1
    assert f"error: {place}/cut.mp4: cannot be read as a film" in capsys.readouterr().err
    assert listed(place / "out") == ["a.png", "a_overlay.jpg"]


@pytest.mark.needs_package("av")
def test_turned_films_come_upright_and_odd_sizes_are_padded(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "turned.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.set_display_rotation(90)
        picture = np.zeros((32, 48, 3), np.uint8)
        picture[:, 24:] = 255
        film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode())
    (frame,) = read_film(tmp_path / "turned.mp4")
    assert frame.rgb.shape == (48, 32, 3) and frame.rgb[:20].mean() > 200 > 50 > frame.rgb[30:].mean()
    save_film(tmp_path / "odd.mp4", 2, 33, 49)
    assert next(read_film(tmp_path / "odd.mp4")).rgb.shape == (34, 50, 3)


def test_without_pyav_the_extra_is_named(place: Path, run: Infer, capsys, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (place / "clip.mp4").write_bytes(b"")
    assert run(place / "clip.mp4") == 1
    assert "films need the package av. Run `pip install fcn-caffe[video]`." in capsys.readouterr().err


def test_large_images_are_held_one_at_a_time(photos: Path, run: Infer, monkeypatch) -> None:
    monkeypatch.setattr(answer_run, "LARGE", 1)
    assert answer_run._fitting(4, 10, 10, 7) == 4
    monkeypatch.setattr(answer_run, "most_free", lambda: 2 * 4 * 700)
    assert answer_run._fitting(4, 10, 10, 7) == 2
    started, answered = [], []
    read_image, answer = answers.read_image, Segmenter.answer

    def read_one(path: Path) -> np.ndarray:
        started.append(path)
        assert len(started) <= len(answered) + 1
        return read_image(path)

    def answer_one(self: Segmenter, images: list[np.ndarray], **options: object) -> list[segmenting.Answer]:
        answered.append(images)
        return answer(self, images, **options)

    monkeypatch.setattr(answers, "read_image", read_one)
    monkeypatch.setattr(Segmenter, "answer", answer_one)
    monkeypatch.setattr(answer_run, "most_free", lambda: 1 << 10)
    assert run(photos, "--workers", 2) == 0
    assert len(answered) == len(started) > 1


def test_an_image_whose_answer_does_not_fit_is_refused(photos: Path, run: Infer, capsys, monkeypatch) -> None:
    monkeypatch.setattr(answer_run, "LARGE", 1)
    monkeypatch.setattr(answer_run, "most_free", lambda: 500)
    assert run(photos) == 1
    assert "to write, 500 bytes are free. Use a smaller image, or free memory." in capsys.readouterr().err


def test_a_large_image_is_read_in_parts_to_the_same_pixels(tmp_path: Path, monkeypatch) -> None:
    path = save(tmp_path / "high.png", 600, 3)
    whole = image_files.read_image(path)
    monkeypatch.setattr(image_files, "LARGE", 1)
    assert np.array_equal(image_files.read_image(path), whole)
    monkeypatch.setattr(free_memory, "most_free", lambda: 7 * 600 * 3 - 1)
    for reader in (image_files.read_image, image_files.open_image, image_files.read_index_image):
        with pytest.raises(DataError, match=r"high\.png: its 3x600 pixels take about 12\.3 KiB to read, 12\.3 KiB are"):
            reader(path)
