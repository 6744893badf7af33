"""Where torch computes; the GPU's part with its calls recorded."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import cv2
import pytest
import torch

from facegraph.errors import ConfigError, InvalidRequest, ModelUnavailable
from facegraph.vision.torch_device import (
    Accelerator,
    TorchDevice,
    open_device,
    ran_out_of_memory,
)

pytestmark = pytest.mark.unit

GPU = torch.device("cuda", 2)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is asked of a GPU of 1000 bytes, the third of its machine."""
    calls: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=1000)
    )
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *given: calls.append(given)
    )
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("emptied"))
    return calls


@pytest.mark.parametrize(
    ("accelerator", "device"), [("auto", GPU), ("cuda", GPU), ("cpu", torch.device("cpu"))]
)
@pytest.mark.usefixtures("calls")
def test_with_a_gpu(accelerator: Accelerator, device: torch.device) -> None:
    assert open_device(accelerator, threads=1) == TorchDevice(device, 1)


@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, accelerator: Accelerator) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert open_device(accelerator, threads=1).device == torch.device("cpu")
    with pytest.raises(ConfigError, match="accelerator: torch finds no CUDA device"):
        open_device("cuda", threads=1)


@pytest.mark.parametrize(("memory_bytes", "share"), [(250, 0.25), (4000, 1.0)])
def test_memory_is_capped_on_the_current_device(
    calls: list[object], memory_bytes: int, share: float
) -> None:
    open_device("auto", threads=1, memory_bytes=memory_bytes)
    assert calls == [(share, GPU)]


def test_threads_hold_for_torch_and_opencv_and_the_thread_that_calls() -> None:
    device = open_device("cpu", threads=2)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (2, 2)
    torch.set_num_threads(1)  # as another model in the process would
    assert device.attempt(torch.get_num_threads, "never said") == 2


@pytest.mark.parametrize("broken", [False, True])
def test_a_failure_empties_the_gpus_cache(
    calls: list[object], monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    if broken:  # then nothing it is asked for works
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: fail(RuntimeError("CUDA error")))
    device = TorchDevice(GPU, torch.get_num_threads())
    with pytest.raises(
        ModelUnavailable, match=r"^it broke: CUDA error: illegal address$"
    ) as caught:
        device.attempt(
            lambda: fail(RuntimeError("CUDA error: illegal address\nadvice")), "it broke"
        )
    assert caught.value.__context__ is None
    assert calls == ([] if broken else ["emptied"])


def test_other_errors_pass(calls: list[object]) -> None:
    with pytest.raises(InvalidRequest, match=r"^no$"):
        TorchDevice(GPU, torch.get_num_threads()).attempt(lambda: fail(InvalidRequest("no")), "x")
    assert calls == []


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("any words"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("sizes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, memory: bool) -> None:
    assert ran_out_of_memory(error) is memory


def fail(error: Exception) -> None:
    raise error
