"""Signals that ask a process to stop."""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, the request to end, a terminal that has been closed, and what SLURM can be told to announce the end with."""


class StopRequest:
    """Takes the first of `SIGNALS` as a request to stop when it suits; Ctrl-C then ends the process at once.

    The other signals change nothing when they come again, as they do where a terminal is closed or a job has used up
    its time. One that the process was started to ignore, as by `nohup`, is ignored.
    """

    def __init__(self, at_once: Any = signal.SIG_DFL) -> None:
        """`at_once` handles Ctrl-C after a request; by default the process ends by the signal, in whatever it is.

        Nothing is torn by that: files take the place of others when they are complete.
        """
        self.received: signal.Signals | None = None
        self._at_once = at_once

    def __enter__(self) -> Self:
        heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._handle) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            return
        self.received = signal.Signals(number)
        if signal.SIGINT in self._previous:
            signal.signal(signal.SIGINT, self._at_once)
        message = f"\n{self.received.name}: will save and stop after this chunk; Ctrl-C now stops without saving.\n"
        with contextlib.suppress(OSError):  # the terminal may be what has gone
            os.write(sys.stderr.fileno(), message.encode())  # `print` may be what the signal interrupted

    def pending(self) -> bool:
        """Whether to stop. All processes have to ask at the same time, and get the same answer."""
        number = int(self.received or 0)
        if jax.process_count() > 1:
            number = int(multihost_utils.process_allgather(np.int32(number)).max())
        if number:
            self.received = signal.Signals(number)
        return number > 0
