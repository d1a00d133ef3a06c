"""Kill the commands that kills.py leaves out before every change of the file system, `MOST` of them at most.

    PYTHONPATH=. python tests/reliability/kill_others.py [TOOL ...]

They run as interrupts.py runs them; what must hold is what kills.py says.
"""

from __future__ import annotations

import functools
import gc
import random
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from reliability import kill_cases
from reliability.interrupts import CASES, write_inputs
from reliability.kills import Killer, warm_up

MOST = 60
TOOLS = (
    *("extract_features", "compute_image_mean", "convolutionalize", "merge_bn", "upgrade_net", "report", "parse_log"),
    *("plot_training_log", "draw_net", "view", "hha", "score_edges", "make_nets"),
)


def kill_tool(name: str, folder: Path) -> Killer:
    """Kill a tool before every change, or before `MOST` of them, in an empty folder beside `template`."""
    copy = functools.partial(shutil.copytree, folder.parent / "template", dirs_exist_ok=True)
    case = kill_cases.Case(name, CASES[name], copy)
    warm_up(case, folder / "warm")
    gc.freeze()  # children would copy what a collection touches
    (folder / "top").mkdir()
    killer = Killer(case, folder / "top")
    changes = range(killer.reference.changes)
    for number in sorted(random.Random(1).sample(changes, min(MOST, len(changes)))):
        killer.kill_before(number)
    return killer


def main() -> int:
    """Kill the tools; 1 when a kill did harm."""
    torch.set_num_threads(1)
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fcn-caffe-kills-") as top:
        write_inputs(Path(top, "template"))
        for name in sys.argv[1:] or TOOLS:
            Path(top, name).mkdir()
            killer = kill_tool(name, Path(top, name))
            tally = killer.tally
            print(
                f"{name}: {tally.kills} kills before {killer.reference.changes} changes, {tally.left} left something "
                f"beside, {tally.between} between renames; {len(tally.failures)} failures",
                *(f"    {failure}" for failure in tally.failures),
                sep="\n",
                flush=True,
            )
            failures += tally.failures
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
