"""Reading a PyTorch checkpoint as data: no torch, and nothing of it is run.

A checkpoint is a zip archive of a pickle and one file per tensor storage. A pickle is a program;
here it can only name classes of the lists below, and each of them becomes an inert
:class:`Record` of what was said about the object. Anything else is refused before it is called.
Tensors are read from their storages after the pickle has ended, and only those asked for.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from facegraph.errors import ModelMissing

Array = npt.NDArray[Any]

PICKLE = "data.pkl"

MAX_PICKLE_BYTES = 4 << 20
"""A network's structure takes a tenth of a megabyte; the weights are no part of the pickle."""

STORAGES: dict[str, type[np.generic]] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
"""Name of a storage class of torch → what its bytes are; little endian, as every machine in use."""

REBUILDERS = frozenset(
    {
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("__builtin__", "getattr"),  # a method that a module kept; recorded, not looked up
        ("builtins", "getattr"),
    }
)
MODULES = ("torch.nn.", "models.")
"""Where the classes of networks live, whatever they are called."""

REAL: dict[tuple[str, str], type] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
}
"""Plain containers, the only names that stand for themselves."""


class Record:
    """An object of a checkpoint that was not built.

    origin: module and name of its class or of the function that would have made it
    arguments: what it would have been made of
    state: its attributes
    """

    origin: ClassVar[str] = ""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"{self.origin} has a state that is no dictionary")
        self.state = state

    @property
    def kind(self) -> str:
        """The name of its class, without the module."""
        return self.origin.rpartition(".")[2]


class Checkpoint:
    """A checkpoint, open for reading its tensors.

    root: what was saved, with a :class:`Record` for everything that is no plain value
    """

    def __init__(self, content: bytes) -> None:
        """Raises ModelMissing where ``content`` is no checkpoint, is damaged, or names what no
        network needs."""
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(content))
            self._folder, document = self._document()
            _refuse_large_memo(document)
            self.root = _Unpickler(io.BytesIO(document)).load()
        except zipfile.BadZipFile:
            raise ModelMissing("the file is no PyTorch checkpoint, or not whole") from None
        except Exception as error:  # a broken pickle raises whatever its bytes lead to
            raise ModelMissing(f"the checkpoint cannot be read: {error}") from error

    def tensor(self, record: object) -> Array:
        """The values of a tensor or parameter; ModelMissing where the file does not hold them."""
        try:
            return self._tensor(record)
        except Exception as error:  # as above
            raise ModelMissing(f"a tensor of the checkpoint cannot be read: {error}") from error

    def _document(self) -> tuple[str, bytes]:
        members = self._archive.infolist()
        info = next((one for one in members if PurePosixPath(one.filename).name == PICKLE), None)
        if info is None:
            raise ValueError(f"it holds no {PICKLE}")
        if info.file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"its structure takes {info.file_size} bytes")
        folder = str(PurePosixPath(info.filename).parent)
        return folder, self._archive.read(info)

    def _tensor(self, record: object) -> Array:
        if not isinstance(record, Record):
            raise TypeError(f"{type(record).__name__} is no tensor")
        if record.kind == "_rebuild_parameter":
            record = record.arguments[0]
        if not isinstance(record, Record) or record.kind != "_rebuild_tensor_v2":
            raise TypeError("what should be a tensor is none")
        storage, offset, shape, strides = record.arguments[:4]
        values = self._storage(storage)
        if min((offset, *shape, *strides), default=0) < 0 or len(shape) != len(strides):
            raise ValueError("a shape is wrong")
        size = int(np.prod(shape, dtype=object))
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        # A stride of 0 would make gigabytes of one value.
        if size > len(values) or (size and last >= len(values)):
            raise IndexError("a tensor reaches beyond its storage")
        strided = np.lib.stride_tricks.as_strided(
            values[offset:], shape, [step * values.itemsize for step in strides]
        )
        return strided.copy()

    def _storage(self, storage: Record) -> Array:
        _, kind, key, *_ = storage.arguments[0]
        info = self._archive.getinfo(f"{self._folder}/data/{key}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("its storages are compressed")  # torch's never are: no zip bombs
        dtype = np.dtype(STORAGES[kind.origin.removeprefix("torch.")]).newbyteorder("<")
        return np.frombuffer(self._archive.read(info), dtype)


class _Unpickler(pickle.Unpickler):
    """Builds plain containers and records; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        path = (module, name)
        if path in REAL:
            return REAL[path]
        storage = module == "torch" and name in STORAGES
        if storage or path in REBUILDERS or f"{module}.".startswith(MODULES):
            return type(name, (Record,), {"origin": f"{module}.{name}"})
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no network needs")

    def persistent_load(self, pid: Any) -> Record:
        """A storage: ``("storage", class, key, device, number of values)``."""
        return Record(pid)


def _refuse_large_memo(document: bytes) -> None:
    """The unpickler makes room for the largest number that a memo is put under."""
    for opcode, argument, _ in pickletools.genops(document):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(document):
            raise ValueError("a memo lies beyond its end")
