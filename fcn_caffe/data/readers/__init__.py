"""Readers: databases, Datums, image and label files, lists and means, as arrays."""
