"""The checks, by what they read: Table 1 and Section 4, the release, behaviour, scores on data."""
