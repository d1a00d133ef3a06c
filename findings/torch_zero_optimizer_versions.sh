#!/bin/sh
# A good guess: a parameter's version counter (tensor._version) goes up whenever an optimiser changes the parameter, so what was
# computed from it can be kept for as long as the counter stays. Autograd itself goes by it.
# What happens: with ZeroRedundancyOptimizer each rank updates its share of the parameters, whose counters go up; the others come
# by broadcasts into param.data, behind the counter's back. After a step they are new and their counters old: a cache keyed on
# the counter serves old numbers on one rank and new ones on the other.
# What we do about it: --shard-history counts on what it received (torch.autograd.graph.increment_version).
# Source: ZeroRedundancyOptimizer._sync_params, which broadcasts param.data; its page does not speak of counters.
# Seen with torch 2.13.0, gloo.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
cat >step.py <<'PYTHON'
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file:///" + sys.argv[2].lstrip("/"), rank=rank, world_size=2)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
optimizer = ZeroRedundancyOptimizer(net.parameters(), torch.optim.SGD, lr=0.1)
net(torch.ones(1, 3)).sum().backward()
before = {name: (value._version, value.detach().clone()) for name, value in net.named_parameters()}
optimizer.step()
changed = [name for name, value in net.named_parameters() if not torch.equal(value, before[name][1])]
counted = [name for name, value in net.named_parameters() if value._version > before[name][0]]
print(f"torch {torch.__version__}, rank {rank}: {len(changed)} of {len(before)} parameters changed, counted: {counted}")
assert len(changed) == 4 and 0 < len(counted) < 4, "all changes are counted: the finding no longer holds"
dist.destroy_process_group()
PYTHON
"$folder/venv/bin/python" step.py 1 "$folder/meeting" 2>/dev/null &
"$folder/venv/bin/python" step.py 0 "$folder/meeting" 2>/dev/null
wait $!
