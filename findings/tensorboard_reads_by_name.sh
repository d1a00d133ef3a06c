#!/bin/sh
# A good guess: TensorBoard shows the scalars of a run in the order they were written, or of their steps.
# What happens: the files of a folder are read in the order of their names, which end with the second, the host, the process and
# a running number that is not filled up with zeros. A process that opens a writer for each epoch, eleven within one second, has
# its tenth and eleventh file read before its third: the curve runs to the end, comes back, and goes on from step 2.
# What we do about it: one writer for each run, and a resumed run says from which step its steps replace the ones before.
# Source: EventFileWriter.__init__ and DirectoryWatcher._GetNextPath; no page says it. Seen with tensorboard 2.21.0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check tensorboard==2.21.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import os
import time
from importlib.metadata import version

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

time.sleep(1 - time.time() % 1)  # the beginning of a second
writers = [EventFileWriter("run") for _ in range(12)]
for step, writer in enumerate(writers):
    loss = Summary(value=[Summary.Value(tag="loss", simple_value=1 / (1 + step))])
    writer.add_event(Event(step=step, wall_time=time.time(), summary=loss))
    writer.close()
run = EventAccumulator("run")
run.Reload()
names = sorted(os.listdir("run"))
seconds = {name.split(".")[3] for name in names}
steps = [event.step for event in run.Scalars("loss")]
print(f"tensorboard {version('tensorboard')}: {len(names)} files of {len(seconds)} second, steps as read {steps}")
assert len(seconds) == 1, "a slow machine: the files are of several seconds, run it again"
assert steps == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9], "another order: the finding no longer holds"
PYTHON
