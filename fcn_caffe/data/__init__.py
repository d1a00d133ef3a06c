"""Data: layers that give images, readers of files and databases, the paper's data sets, a person's own folder."""
