"""What knows nothing of Caffe's nets: files, devices, free memory, log lines, progress, pictures and words.

>>> from fcn_caffe.host.text import did_you_mean, show
>>> show((1, 21, 500, 500)) + did_you_mean("scroe", ["score", "data"])
"1x21x500x500 Did you mean 'score'?"
"""
