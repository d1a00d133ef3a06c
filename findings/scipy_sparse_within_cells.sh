#!/bin/sh
# A good guess: loadmat gives every sparse matrix of a .mat the same class. Its option spmatrix, which is on, says so: "return
# sparse matrix. Otherwise return sparse array".
# What happens: the option reaches the variables of the file alone. What lies within a cell or a field of a struct, as the
# boundaries of SBD do (GTcls.Boundaries, a cell of sparse matrices), comes as csc_array. Both print alike, and `*` of the one is
# the product of matrices, of the other that of elements; ** and sums over axes differ likewise.
# What we do about it: what is read from .mat files is made dense before it is used.
# Source: scipy.io.loadmat, parameter spmatrix, and its loop over the variables; seen with SciPy 1.17.1.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check scipy==1.17.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import scipy
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

edges = csc_matrix([[1.0, 2.0], [3.0, 4.0]])
cell = np.empty((1, 1), object)
cell[0, 0] = edges
savemat("labels.mat", {"edges": edges, "cell": cell, "truth": {"edges": edges}})
print(f"SciPy {scipy.__version__}")
products = {}
for name, options in (("", {}), (", spmatrix=False", {"spmatrix": False})):
    read = loadmat("labels.mat", **options)
    places = {"a variable": read["edges"], "in a cell": read["cell"][0, 0], "in a struct": read["truth"]["edges"][0, 0]}
    for place, found in places.items():
        products[place, name] = (found * found).toarray().tolist()
        print(f"loadmat(file{name}), {place}: {type(found).__name__}, edges * edges = {products[place, name]}")
matrix, elements = [[7.0, 10.0], [15.0, 22.0]], [[1.0, 4.0], [9.0, 16.0]]
assert products["a variable", ""] == matrix and products["in a cell", ""] == products["in a struct", ""] == elements, (
    "one class for all: the finding no longer holds"
)
assert all(products[place, ", spmatrix=False"] == elements for place in ("a variable", "in a cell", "in a struct"))
PYTHON
