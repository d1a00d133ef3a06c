"""What knows nothing of Caffe: whole-or-none files, devices, free memory, log lines, places, pictures, text."""
