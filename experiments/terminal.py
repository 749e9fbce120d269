"""What the tools print."""

import contextlib
import os
import sys

import jax


def say(text: str, end: str = "\n") -> None:
    """Prints at once, on the first process only. What nobody can read any more is not printed, and stops nothing."""
    if jax.process_index() > 0:
        return
    try:
        print(text, end=end, flush=True)
    except OSError as error:  # `| head` has ended, the terminal is closed, or the disk is full that it is written to
        drop_output()
        with contextlib.suppress(OSError):
            print(f"Nothing can be printed any more ({error.strerror}); the work goes on.", file=sys.stderr, flush=True)


def drop_output() -> None:
    """Lets what is printed from now on go nowhere, as well as what has not been taken of what was printed before."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
