"""The embedded recipe over several seeds: is FCN-32s-fixed < 32s < 16s < 8s in mean IU, and by how much?

    python benchmarks/shapes_recipe.py [--seeds 1 2 3] [--folder runs/shapes_recipe]

Each seed has fillers, dropout and training images of its own; the images scored on are the same. A seed's run is
`tools/solve.py solvers/shapes-fcn8s.prototxt` in a folder of its own; one that is there already is not run again.
Prints a Markdown table of means and spreads, and the processor seconds a run took.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import itertools
import os
import resource
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fcn_caffe.commands import solve  # noqa: E402
from fcn_caffe.evaluation.metrics import NAMES  # noqa: E402
from fcn_caffe.host.atomic import atomic_write  # noqa: E402
from fcn_caffe.models.shapes import RECIPES, shapes_files  # noqa: E402
from fcn_caffe.proto import write_text  # noqa: E402


def run(seed: int, folder: Path) -> float:
    """Train all stages with a seed; returns processor seconds, 0 where everything was there."""
    for path, message in shapes_files(seed).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / path, "w") as file:
            file.write(write_text(message))
    before, here = resource.getrusage(resource.RUSAGE_SELF), Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            status = solve.main(["solvers/shapes-fcn8s.prototxt", "--resume"])
    finally:
        os.chdir(here)
    if status:
        raise SystemExit(f"seed {seed}: solve ended with {status}")
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def best_scores(folder: Path, stage: str) -> dict[str, float]:
    """The row of the highest mean IU."""
    with open(folder / "snapshot" / stage / "scores.csv", newline="") as file:
        row = max(csv.DictReader(file), key=lambda line: float(line["mean_iu"]))
    return {metric: float(row[metric]) * 100 for metric in NAMES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/shapes_recipe")
    arguments = parser.parse_args()
    seconds = {seed: run(seed, arguments.folder / str(seed)) for seed in arguments.seeds}
    stages = [name for name in RECIPES if name != "shapes-classifier"]
    scores = {stage: [best_scores(arguments.folder / str(seed), stage) for seed in arguments.seeds] for stage in stages}
    print(f"| stage | {' | '.join(NAMES.values())} |")
    print("|---|" + "---|" * len(NAMES))
    for stage, rows in scores.items():
        cells = []
        for metric in NAMES:
            values = [row[metric] for row in rows]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        print(f"| {stage.removeprefix('shapes-')} | {' | '.join(cells)} |")
    print(f"\nmean ± sample standard deviation over seeds {', '.join(map(str, arguments.seeds))}")
    for place, seed in enumerate(arguments.seeds):
        own = [scores[stage][place]["mean_iu"] for stage in stages]
        rises = all(low < high for low, high in itertools.pairwise(own))
        took = f", {seconds[seed]:.0f} processor seconds" if seconds[seed] > 30 else ""
        values = ", ".join(f"{value:.1f}" for value in own)
        print(f"seed {seed}: mean IU {values}: {'rises' if rises else 'DOES NOT RISE'}{took}")


if __name__ == "__main__":
    main()
