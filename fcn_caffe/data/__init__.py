"""Everything that brings images and labels to a net.

- `layers/`: Caffe's data layers, such as Data, ImageData and HDF5Data.
- `readers/`: readers of image files, label images, lists, databases, means and window files, as arrays.
- `sets/`: the paper's data sets, a folder of one's own, and the generated set `shapes`, as Python layers.
- `own/`: looks through a person's folder and plans classes and splits.
- `prepare/`: turns downloaded archives into the folders that `sets/` reads.
- `transformer.py` applies transform_param, `prefetch.py` makes batches ahead in a thread, `hha.py` encodes depth.

    >>> from fcn_caffe.data.sets.shapes_scenes import draw_scene
    >>> image, label = draw_scene(seed=1337, split="train", index=0)
    >>> image.shape, label.shape
    ((112, 112, 3), (112, 112))
    >>> from fcn_caffe.data.readers.labels import LabelMap
    >>> LabelMap({0: 0, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 255: 255}).apply(label, "scene 0").max().item()
    255

To read a data set of one's own, write a Python layer: a subclass of `sets.one_image_layer.OneImageLayer` with `open`,
`load_image` and `load_label`. A folder of images and a folder of labels need none: `sets.folder_layers` reads them.
"""
