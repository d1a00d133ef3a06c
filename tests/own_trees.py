"""Tiny data sets in each format that new_task reads, as their tools export them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

HEIGHT, WIDTH = 24, 32
SQUARE = [4, 4, 20, 4, 20, 16, 4, 16]  # x, y, x, y, …


def photograph(path: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """Write an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def label(path: Path, values: npt.NDArray[Any], colours: list[int] | None = None) -> Path:
    """Write a label picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(values, np.uint8))
    if colours:
        picture.putpalette(colours + [0] * (768 - len(colours)))
    picture.save(path)
    return path


def halves(left: int, right: int) -> npt.NDArray[np.uint8]:
    """Return a label of two halves."""
    values = np.full((HEIGHT, WIDTH), left, np.uint8)
    values[:, WIDTH // 2 :] = right
    return values


def write_json(path: Path, value: object) -> Path:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def coco(images: int = 6) -> dict[str, Any]:
    """Return a COCO file's content: polygons, packed and plain run lengths, a crowd."""
    half = HEIGHT * WIDTH // 2
    table: dict[str, Any] = {
        "images": [
            {"id": index, "file_name": f"{index}.jpg", "height": HEIGHT, "width": WIDTH} for index in range(images)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [],
    }
    for index in range(images):
        crowd = {"size": [HEIGHT, WIDTH], "counts": [half, half]}  # the right half: columns come first
        parts = [SQUARE, [24, 18, 30, 18, 30, 22, 24, 22]]
        for category, segmentation, iscrowd in ((3, parts, 0), (7, crowd, 1)):
            table["annotations"].append(
                {
                    "id": len(table["annotations"]),
                    "image_id": index,
                    "category_id": category,
                    "segmentation": segmentation,
                    "iscrowd": iscrowd,
                }
            )
    return table


def write_coco(folder: Path, table: dict[str, Any] | None = None, images: int = 6) -> Path:
    """Write a COCO file beside its images; returns the file."""
    for index in range(images):
        photograph(folder / "images" / f"{index}.jpg", index)
    return write_json(folder / "annotations" / "instances.json", coco(images) if table is None else table)


def labelme(image: str, shapes: list[dict[str, Any]], data: bytes | None = None) -> dict[str, Any]:
    """Return a labelme file's content."""
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None if data is None else base64.b64encode(data).decode(),
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }


def shape(name: str, kind: str, *points: tuple[float, float]) -> dict[str, Any]:
    """Return a shape of labelme."""
    return {"label": name, "points": points, "group_id": None, "shape_type": kind, "flags": {}}


def write_labelme(folder: Path, images: int = 4) -> Path:
    """Write a folder of labelme's files, the first with its image inside."""
    for index in range(images):
        path = photograph(folder / f"{index}.png", index)
        shapes = [
            shape("cat", "polygon", (2, 2), (14, 2), (14, 12), (2, 12)),
            shape("dog", "rectangle", (18, 4), (28, 10)),
            shape("dog", "circle", (22, 17), (26, 17)),
            shape("cat", "line", (0, 0), (5, 5)),
        ]
        data = path.read_bytes() if index == 0 else None
        write_json(folder / f"{index}.json", labelme(path.name, shapes, data))
        if data:
            path.unlink()
    return folder


def cvat(objects: str, images: int = 4) -> str:
    """Return CVAT's XML for images, with the same objects in each."""
    entries = "".join(
        f'<image id="{index}" name="{index}.jpg" width="{WIDTH}" height="{HEIGHT}">{objects}</image>'
        for index in range(images)
    )
    labels = "".join(
        f"<label><name>{name}</name><color>{colour}</color></label>"
        for name, colour in (("cat", "#ff0000"), ("dog", "#00ff7f"))
    )
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>{meta}{entries}</annotations>'


CVAT_OBJECTS = (
    '<polygon label="cat" source="manual" occluded="0" points="4,4;20,4;20,16;4,16" z_order="1"></polygon>'
    '<box label="dog" xtl="10" ytl="2" xbr="30" ybr="10" z_order="0"></box>'
    '<ellipse label="dog" cx="26" cy="18" rx="3" ry="2" z_order="0"></ellipse>'
    '<mask label="dog" rle="2, 4, 2" left="0" top="20" width="4" height="2" z_order="0"></mask>'
    '<points label="cat" points="1,1" z_order="0"></points>'
)


def write_cvat(folder: Path, objects: str = CVAT_OBJECTS, images: int = 4) -> Path:
    """Write CVAT's XML and its images."""
    for index in range(images):
        photograph(folder / "images" / f"{index}.jpg", index)
    (folder / "annotations.xml").write_text(cvat(objects, images))
    return folder


def write_cvat_masks(folder: Path, images: int = 4) -> Path:
    """Write CVAT's export of masks: pictures in colours, and labelmap.txt."""
    colours = np.array([[0, 0, 0], [250, 50, 83]], np.uint8)
    for index in range(images):
        photograph(folder / "JPEGImages" / f"{index}.jpg", index)
        label(folder / "SegmentationClass" / f"{index}.png", colours[halves(0, 1)])
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("".join(f"{index}\n" for index in range(images)))
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n")
    return folder


def write_voc(folder: Path) -> Path:
    """Write a VOC folder with its lists."""
    colours = [0, 0, 0, 128, 0, 0, 0, 128, 0]
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, names in {"train": "abc", "val": "de"}.items():
        (lists / f"{split}.txt").write_text("\n".join(names))
        for index, name in enumerate(names):
            photograph(folder / "JPEGImages" / f"{name}.jpg", index)
            values = halves(0, 2)
            values[0] = 255
            label(folder / "SegmentationClass" / f"{name}.png", values, colours)
    return folder


def cityscapes_polygons() -> dict[str, Any]:
    """Return a Cityscapes polygon file: road below a car, its plate, a deleted tree."""
    return {
        "imgHeight": HEIGHT,
        "imgWidth": WIDTH,
        "objects": [
            {"label": "road", "polygon": [[0, 0], [31, 0], [31, 23], [0, 23]]},
            {"label": "cargroup", "polygon": [[4, 4], [20, 4], [20, 16], [4, 16]]},
            {"label": "license plate", "polygon": [[6, 6], [10, 6], [10, 8], [6, 8]]},
            {"label": "vegetation", "polygon": [[0, 0], [9, 0], [9, 9]], "deleted": 1},
            {"label": "static", "polygon": [[24, 18], [30, 18], [30, 22]]},
        ],
    }


def write_cityscapes(folder: Path, kind: str = "labelIds") -> Path:
    """Write a Cityscapes tree, with labels of one kind; its test list has no public labels."""
    for split, city, count in (("train", "aachen", 3), ("val", "lindau", 2), ("test", "berlin", 1)):
        for index in range(count):
            stem = f"{city}_{index:06d}_000019"
            photograph(folder / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", index)
            place = folder / "gtFine" / split / city
            if kind == "polygons":
                write_json(place / f"{stem}_gtFine_polygons.json", cityscapes_polygons())
            elif kind == "labelIds":
                label(place / f"{stem}_gtFine_labelIds.png", halves(7, 26))
            else:
                label(place / f"{stem}_gtFine_labelTrainIds.png", halves(0, 13))
    return folder


def write_ade20k(folder: Path) -> Path:
    """Write a tree like the scene parsing benchmark's."""
    for split, count in (("training", 3), ("validation", 2)):
        for index in range(count):
            photograph(folder / "images" / split / f"ADE_{split}_{index}.jpg", index)
            values = halves(1, 2)
            values[:4] = 0
            label(folder / "annotations" / split / f"ADE_{split}_{index}.png", values)
    (folder / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.15\t11664\t1172\t1\twall\n2\t0.1\t6046\t612\t1\tbuilding, edifice\n"
    )
    return folder


def write_mapillary(folder: Path, version: str = "") -> Path:
    """Write a tree like Mapillary Vistas'; version: "" for 1.2's layout, "v2.0"."""
    labels = [
        {"name": "nature--sky", "readable": "Sky", "color": [70, 130, 180], "evaluate": True},
        {"name": "void--ego-vehicle", "readable": "Ego Vehicle", "color": [120, 10, 10], "evaluate": False},
        {"name": "object--car", "readable": "Car", "color": [0, 0, 142], "evaluate": True},
        {"name": "void--unlabeled", "readable": "Unlabeled", "color": [0, 0, 0], "evaluate": False},
    ]
    write_json(folder / (f"config_{version}.json" if version else "config.json"), {"labels": labels})
    for split, count in (("training", 3), ("validation", 1)):
        for index in range(count):
            photograph(folder / split / "images" / f"{split}{index}.jpg", index)
            values = halves(0, 2)
            values[:2], values[2:4] = 1, 3
            label(folder / split / version / "labels" / f"{split}{index}.png", values)
    photograph(folder / "testing" / "images" / "t.jpg")
    return folder


def picture_bytes(values: npt.NDArray[Any]) -> str:
    """Return a picture as labelme holds masks: PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
