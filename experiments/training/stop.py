"""Signals that ask a process to stop."""

import os
import signal
import sys
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopRequest:
    """Takes SIGTERM and Ctrl-C as a request to stop when it suits; a second one ends the process at once."""

    def __enter__(self) -> Self:
        self.received: signal.Signals | None = None
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: Any) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        message = f"\n{self.received.name}: will save and stop after this chunk; a second one stops at once.\n"
        os.write(sys.stderr.fileno(), message.encode())  # `print` may be what the signal interrupted

    def pending(self) -> bool:
        """Whether to stop. All processes have to ask at the same time, and get the same answer."""
        number = int(self.received or 0)
        if jax.process_count() > 1:
            number = int(multihost_utils.process_allgather(np.int32(number)).max())
        if number:
            self.received = signal.Signals(number)
        return number > 0
