"""Makes nets from nets: Split layers, the deploy form, the fully convolutional form, rarefaction.

A rewrite takes a NetParameter or a Graph and gives a NetParameter; blobs and weights keep their names, or the result
says how they are called.
"""
