"""Mutations that read spoilt files with C libraries, each in a process of its own: such a library may end it, or write
where it must not, and the reader that the campaign tries would be blamed for it.
"""

from __future__ import annotations

import functools
import os
import signal
from random import Random

from mutations import Mutation, flip_bits

_SECONDS = 5  # that a mutation may take


def apart(mutation: Mutation) -> Mutation:
    """The mutation in a forked process; where that does not come to its end, flipped bits."""

    @functools.wraps(mutation)
    def mutated(random: Random, data: bytes, other: bytes) -> bytes:
        source, sink = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                os.close(source)
                signal.alarm(_SECONDS)  # ends this process
                with open(sink, "wb") as file:
                    file.write(mutation(random, data, other))
                status = 0
            finally:
                os._exit(status)
        os.close(sink)
        with open(source, "rb") as file:
            new = file.read()
        _, status = os.waitpid(child, 0)
        return new if status == 0 else flip_bits(random, data, other)

    return mutated
