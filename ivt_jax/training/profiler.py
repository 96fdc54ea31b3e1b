"""A window of steps recorded by the profiler of JAX, for TensorBoard, XProf or Perfetto."""

from pathlib import Path

import jax


class Profiler:
    """Records the steps `first` to `last` into a folder; (0, 0) records none.

    A run that resumes inside the window records what is left of it.
    """

    def __init__(self, folder: Path, *, steps: tuple[int, int]):
        self.folder, (self.first, self.last) = folder, steps
        self._recording = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_):
        self._stop()

    def before(self, step: int) -> None:
        """Starts to record where the window begins; to be called before each step."""
        if self.first <= step <= self.last and not self._recording:
            jax.profiler.start_trace(self.folder)
            self._recording = True

    def after(self, step: int, result) -> str:
        """Waits for the window's last step and stops; returns what to tell the user, or ""."""
        if not self._recording or step < self.last:
            return ""
        jax.block_until_ready(result)
        self._stop()
        return f"profile up to step {step} in {self.folder}: pip install xprof; xprof {self.folder}"

    def _stop(self) -> None:
        if self._recording:
            self._recording = False
            jax.profiler.stop_trace()
