"""Counts the seconds between two optimizer steps, the same way for every loop."""

import time

import torch


class StepClock:
    """Starts at the end of the warm-up and stops at the end of the last step."""

    def __init__(self, device: str, warmup_steps: int, num_steps: int) -> None:
        self._is_cuda = device == "cuda"
        self._first, self._last = warmup_steps, warmup_steps + num_steps
        self._began = 0.0
        self.seconds = 0.0

    def step_ended(self, step: int) -> None:
        """Note that `step` steps (counted from 1) have been taken."""
        if step not in (self._first, self._last):
            return
        if self._is_cuda:
            torch.cuda.synchronize()  # work that was only asked for is not done
        if step == self._first:
            self._began = time.perf_counter()
        else:
            self.seconds = time.perf_counter() - self._began
