"""What a run says while it learns: `metrics.jsonl`, W&B, and the progress line."""

import math
import sys
import time

from experiments.config import Config
from experiments.terminal import say
from memrl.metrics import Metrics, to_host
from memrl.tracking import Tracker


class DivergedError(Exception):
    """A loss or gradient that is not finite."""


class Log:
    """Writes metrics down and shows how far the run is, one chunk late, so that no device waits for it."""

    def __init__(
        self,
        config: Config,
        tracker: Tracker | None,
        update: int,
        seconds: float,
        progress: "Progress | None",
        together: int = 1,
    ) -> None:
        """Opens nothing.

        Args:
          config: of the run.
          tracker: None on all processes but the first.
          update: updates done before.
          seconds: time spent on them.
          progress: where to show how far it is.
          together: runs that are trained together; each has its share of the time.
        """
        self.config, self.tracker = config, tracker
        self.update, self.seconds = update, seconds
        self.progress, self.together = progress, together
        self._pending: Metrics | None = None
        self._last = time.perf_counter()

    def add(self, metrics: Metrics) -> None:
        """Takes the metrics `[chunk]` of the chunk that is being computed, and deals with the one before."""
        self.flush()
        self._pending = metrics

    def flush(self) -> None:
        """Deals with what has been added; waits for it if need be. Raises DivergedError."""
        if self._pending is None:
            return
        metrics, self._pending = to_host(self._pending), None
        now = time.perf_counter()
        elapsed, self._last = (now - self._last) / self.together, now
        self.seconds += elapsed
        line: dict[str, float] = {}
        for index in range(self.config.updates_per_chunk):
            self.update += 1
            line = {
                "env_steps": self.update * self.config.steps_per_update,
                **{name: float(values[index]) for name, values in metrics.items() if name != "update"},
                "seconds": self.seconds,
                "steps_per_second": self.config.updates_per_chunk * self.config.steps_per_update / elapsed,
            }
            if self.tracker is not None:
                self.tracker.log(self.update, line)
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(line[name]):
                    raise DivergedError(f"Training diverged: {name} is {line[name]} in update {self.update}.")
        if self.progress is not None:
            self.progress.show(self.update, line["return"])


class Progress:
    """The progress line: rewritten in place on a terminal, elsewhere a new one every ten seconds."""

    def __init__(self, config: Config, update: int) -> None:
        self.config = config
        self.first_update, self.start = update, time.perf_counter()
        self.shown, self.trial_return = -math.inf, math.nan

    def show(self, update: int, trial_return: float) -> None:
        """Shows that `update` is done; `trial_return` is NaN if no trial ended in it."""
        if not math.isnan(trial_return):
            self.trial_return = trial_return
        now, last = time.perf_counter(), update == self.config.num_updates
        in_place = sys.stdout.isatty()
        if not last and now - self.shown < (0.1 if in_place else 10):
            return
        self.shown = now
        seconds_per_update = (now - self.start) / (update - self.first_update)
        minutes, seconds = divmod(round(seconds_per_update * (self.config.num_updates - update)), 60)
        told = "unknown" if math.isnan(self.trial_return) else f"{self.trial_return:.2f}"
        line = (
            f"update {update}/{self.config.num_updates}   {update * self.config.steps_per_update / 1e6:.2f} M steps   "
            f"{self.config.steps_per_update / seconds_per_update:,.0f} steps/s   return {told}   "
            f"{minutes}:{seconds:02} left"
        )
        say(f"\r{line}\x1b[K" if in_place else line, end="" if in_place else "\n")

    def end(self) -> None:
        """Leaves the line as it is."""
        if sys.stdout.isatty():
            say("")
