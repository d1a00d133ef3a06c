#!/bin/sh
# A good guess: the .pt2 that torch.export.save writes holds the graph and the weights; of the example inputs, which were there
# to trace by, it holds the shapes.
# What happens: it holds their values, as a file data/sample_inputs/model.pt, and load gives them back as example_inputs. Who
# traces by a photograph or a patient's scan gives it away with the model, and a batch of large images makes the file larger
# than its weights. Setting the program's example_inputs to None before saving leaves them out.
# What we do about it: `export` does so.
# Source: torch.export.save, which names "ep" alone; torch/_export/serde and the archive's own list. Seen with torch 2.13.0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import zipfile

import torch


def files(path):
    """Sizes of the archive's files, by the last two parts of their names."""
    with zipfile.ZipFile(path) as archive:
        return {"/".join(member.filename.split("/")[-2:]): member.file_size for member in archive.infolist()}


photograph = torch.arange(3 * 64 * 64.0).reshape(1, 3, 64, 64)
program = torch.export.export(torch.nn.Conv2d(3, 4, 3), (photograph,))
torch.export.save(program, "with.pt2")
program.example_inputs = None
torch.export.save(program, "without.pt2")
kept, left = torch.export.load("with.pt2").example_inputs, torch.export.load("without.pt2").example_inputs
held, less = files("with.pt2"), files("without.pt2")
print(f"torch {torch.__version__}")
print(f"weights {sum(size for name, size in held.items() if name.startswith('weights/weight_'))} bytes, "
      f"example {held['sample_inputs/model.pt']} bytes; without it {less.get('sample_inputs/model.pt', 0)} bytes")
assert torch.equal(kept[0][0], photograph), "the example is not there: the finding no longer holds"
assert held["sample_inputs/model.pt"] > photograph.numel() * 4
assert not left and less.get("sample_inputs/model.pt", 0) < 2000
PYTHON
