"""A person's own folder of images and labels: checked, listed and split."""
