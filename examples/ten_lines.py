"""A net in ten lines: written in Python, printed as prototxt, run on an image of any size.

You see the net as Caffe would read it, then the shapes of its scores on two images: 1x5x16x16 on one of 32x32 pixels,
1x5x40x60 on one of 80x120, from the same net, which is built once.
"""

import torch

from fcn_caffe import Net
from fcn_caffe.net.net_spec import NetSpec
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.proto import write_text

n = NetSpec()
n.data = L.Input(input_param={"shape": {"dim": [1, 3, 32, 32]}})
n.conv1 = L.Convolution(n.data, num_output=8, kernel_size=3, pad=1, weight_filler={"type": "xavier"})
n.relu1 = L.ReLU(n.conv1, in_place=True)
n.pool1 = L.Pooling(n.relu1, kernel_size=2, stride=2)
n.score = L.Convolution(n.pool1, num_output=5, kernel_size=1, weight_filler={"type": "xavier"})
net = Net(n.to_proto())
print(write_text(net.param))
for height, width in ((32, 32), (80, 120)):
    print(net(data=torch.rand(1, 3, height, width))["score"].shape)
