"""Caffe's fully convolutional networks, alive on PyTorch."""
