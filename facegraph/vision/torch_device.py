"""Where torch computes, what it takes of the machine, and what its failures are called."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

import cv2
import torch

from facegraph.errors import ConfigError, ModelUnavailable

Accelerator = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]

OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")
"""What torch's allocators say; on the CPU in a plain RuntimeError."""

I = TypeVar("I")  # noqa: E741 - item
T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TorchDevice:
    """A model's processor or GPU, and the threads that it computes with."""

    device: torch.device
    threads: int

    def attempt(self, work: Callable[[], T], failure: str) -> T:
        """What ``work`` returns.

        Raises ModelUnavailable, which begins with ``failure`` and holds none of the work's
        tensors, where torch fails or memory runs out.
        """
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)  # it counts for the calling thread
        try:
            return work()
        except (RuntimeError, MemoryError) as error:  # torch's OutOfMemoryError among them
            log.warning(failure, exc_info=error)
            reason = "it ran out of memory" if ran_out_of_memory(error) else first_line(error)
        # Not in the clause above: there the error still holds every tensor of the run.
        gc.collect()
        if self.device.type == "cuda":
            with suppress(RuntimeError):  # of a GPU that has failed, which is told below
                torch.cuda.empty_cache()
        raise ModelUnavailable(f"{failure}: {reason}")

    def attempt_in_batches(
        self, run: Callable[[list[I]], list[T]], items: list[I], size: int, failure: str
    ) -> list[T]:
        """What ``run`` gives for ``items``, at most ``size`` of them at a time; see `attempt`."""
        batches = [items[at : at + size] for at in range(0, len(items), size)]
        return self.attempt(lambda: [result for batch in batches for result in run(batch)], failure)


def open_device(
    accelerator: Accelerator, *, threads: int, memory_bytes: int | None = None
) -> TorchDevice:
    """The current GPU or the CPU; ConfigError where CUDA is required and not there.

    threads: of torch and OpenCV, either of which would take every core; for all of this process
    memory_bytes: most that torch takes of the GPU in this process
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    if accelerator == "cpu" or not torch.cuda.is_available():
        if accelerator == "cuda":
            raise ConfigError(
                "accelerator: torch finds no CUDA device; cuda needs a CUDA build of PyTorch and a "
                "GPU it can use"
            )
        return TorchDevice(torch.device("cpu"), threads)
    device = torch.device("cuda", torch.cuda.current_device())
    if memory_bytes is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / total), device)
    return TorchDevice(device, threads)


def ran_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def first_line(error: Exception) -> str:
    """What an error says; torch goes on with advice on debugging."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
