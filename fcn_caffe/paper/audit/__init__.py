"""The audit: what the papers and the release claim, each with a check."""
