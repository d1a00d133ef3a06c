"""How far a file may unfold: what it may declare or hold packed, counted before any memory is taken."""

FREE_BYTES = 1 << 26  # what any file may unfold to
MOST_TIMES = 1100  # how many times its size a larger one: deflate packs 1032 to 1 at most


def most_bytes(size: int) -> int:
    """Return how many bytes a file of `size` bytes may unfold to."""
    return max(FREE_BYTES, MOST_TIMES * size)
