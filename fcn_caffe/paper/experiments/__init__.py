"""The paper's experiments, each measured by running it."""
