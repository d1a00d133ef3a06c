"""Training: Caffe's solver, the plan and the stages of the paper's recipe over it, and its logs."""
