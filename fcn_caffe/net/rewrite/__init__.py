"""Nets made from nets: Split layers, the deploy form, the fully convolutional form, rarefaction."""
