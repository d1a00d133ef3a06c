#!/bin/sh
# A good guess: writing an int64 array of labels into a uint8 data set of HDF5 does what NumPy's astype("uint8") does, so that a
# void of -1 becomes 255, the label that is left out elsewhere.
# What happens: HDF5 converts, and clips: -1 becomes 0, the background, and 300 becomes 255. So do create_dataset(data=,
# dtype=), write_direct, and reading by data_set.astype("uint8") or read_direct. But one number of NumPy's written by
# data_set[0] = wraps to 255, an attribute wraps, and a list is an error. None of them warns, and all may stand in one script.
# What we do about it: fcn_caffe reads labels as the floats that Caffe takes, and refuses those that are no class.
# Source: HDF5's note "Revising Numeric Overflows in HDF5" (the nearest value, where no callback is set); h5py's pages do not say
# it of data sets, and name NumPy's astype beside them. Seen with h5py 3.16.0 (HDF5 2.0.0) and NumPy 2.4.6.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check h5py==3.16.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import h5py
import numpy as np

labels = np.array([-1, 0, 1, 255, 300])
wrapped, clipped = [255, 0, 1, 255, 44], [0, 0, 1, 255, 255]
assert labels.astype(np.uint8).tolist() == wrapped
found = {}
with h5py.File("labels.h5", "w") as file:
    written = file.create_dataset("written", labels.shape, dtype=np.uint8)
    written[:] = labels
    found["data_set[:] = array"] = written[:].tolist()
    found["create_dataset(data=array, dtype=)"] = file.create_dataset("created", data=labels, dtype=np.uint8)[:].tolist()
    file["wide"] = labels
    found["wide.astype()[:]"] = file["wide"].astype(np.uint8)[:].tolist()
    found["wide[:].astype()"] = file["wide"][:].astype(np.uint8).tolist()
    for index, label in enumerate(labels):
        written[index] = label
    found["data_set[index] = number"] = written[:].tolist()
    file.attrs.create("labels", labels, dtype=np.uint8)
    found["attrs.create(array, dtype=)"] = file.attrs["labels"].tolist()
print(f"h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}, NumPy {np.__version__}: {labels.tolist()} as uint8")
for way, values in found.items():
    print(f"{way}: {values}, {'clipped' if values == clipped else 'wrapped'}")
assert list(found.values()) == [clipped] * 3 + [wrapped] * 3, "the finding no longer holds"
PYTHON
