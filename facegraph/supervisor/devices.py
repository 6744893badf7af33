"""gnosis's two variables for devices, as one accelerator and the GPUs that may be seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from facegraph.errors import ConfigError

OLD_DEVICES = ("DETECTOR_LOAD_DEVICE", "RECOGNIZER_LOAD_DEVICE")
CPU = -1


@dataclass(frozen=True, slots=True)
class Devices:
    """Where the models shall run; None leaves what is configured."""

    accelerator: str | None = None
    visible: str | None = None
    """The GPUs that the instance may see, as CUDA_VISIBLE_DEVICES writes them."""

    notes: tuple[str, ...] = ()


def old_devices(environ: Mapping[str, str]) -> Devices:
    """What the old variables ask for: -1 the CPU, from 0 on a GPU. ConfigError for anything else.

    One accelerator serves all models here. Where the two variables differ, the GPU wins: a model
    that was to run on the CPU runs there too.
    """
    indexes = {name: _index(name, environ[name]) for name in OLD_DEVICES if name in environ}
    if "FACEGRAPH_ACCELERATOR" in environ:
        stronger = "FACEGRAPH_ACCELERATOR is stronger"
        return Devices(notes=tuple(f"{n}={i} is not used: {stronger}" for n, i in indexes.items()))
    gpus = sorted(set(indexes.values()) - {CPU})
    if not gpus:
        notes = tuple(f"{name}={CPU} is taken as accelerator: cpu" for name in indexes)
        return Devices("cpu" if indexes else None, None, notes)
    own = "CUDA_VISIBLE_DEVICES" not in environ
    visible = ",".join(map(str, gpus)) if own else None
    return Devices("cuda", visible, tuple(_notes(indexes, visible)))


def _index(name: str, value: str) -> int:
    try:
        index = int(value)
    except ValueError:
        index = CPU - 1
    if index < CPU:
        raise ConfigError(f"{name}={value} is no device; -1 is the CPU, 0 and up are GPUs")
    return index


def _notes(indexes: Mapping[str, int], visible: str | None) -> Iterator[str]:
    seen = "on CUDA_VISIBLE_DEVICES" if visible is None else f"on GPU {visible}"
    for name, index in indexes.items():
        if index == CPU:
            yield f"{name}={index} is not used: all models share one accelerator, a GPU"
        else:
            yield f"{name}={index} is taken as accelerator: cuda, {seen}"
    if len(set(indexes.values()) - {CPU}) > 1:
        yield "detection and recognition are spread over both GPUs, not bound to one each"
