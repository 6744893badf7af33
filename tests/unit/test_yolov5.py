"""The ONNX graph of a YOLOv5 checkpoint, against the network in torch."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from facegraph.errors import ModelMissing
from facegraph.models.engines import EngineName, open_engine
from facegraph.models.preparing import prepare
from facegraph.models.torchfile import Checkpoint, Record
from facegraph.models.yolov5 import to_onnx
from tests.yolov5_network import checkpoint, random_network

pytestmark = pytest.mark.unit

SIZES = ((64, 64), (96, 160))
"""Height and width."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def pixels(n: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(n).random((n, 3, height, width), np.float32)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"widths": (8, 8, 12, 16, 16), "depths": (2, 1, 3, 2), "classes": 80, "masks": 32},
    ],
)
def test_the_graph_computes_what_the_network_does(engine: EngineName, sizes: Any) -> None:
    network = random_network(**sizes)
    opened = open_engine(to_onnx(checkpoint(network)), engine=engine, accelerator="cpu", exact=True)
    assert opened.input_shape == (None, 3, None, None)
    for n, (height, width) in zip((2, 2), SIZES, strict=True):
        images = pixels(n, height, width)
        with torch.inference_mode():
            wanted = [value.numpy() for value in network(torch.from_numpy(images))]
        got = opened.run(images)
        cells = height * width // 64 * 21 // 16  # of strides 8, 16 and 32
        assert got[0].shape == (2, 3 * cells, network.model[-1].no)
        assert got[1].shape == (2, network.model[-1].nm, height // 4, width // 4)
        for ours, theirs in zip(got, wanted, strict=True):
            assert np.abs(ours - theirs).max() < 1e-3
            assert theirs.std() > 1e-2


def test_outputs_are_named_and_free_in_batch_and_size() -> None:
    model = onnx.load_from_string(prepare(checkpoint(random_network()), ["yolov5-to-onnx"]))
    shapes = {
        value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "images": ["batch", 3, "height", "width"],
        "predictions": ["batch", "anchors", 12],
        "prototypes": ["batch", 4, "mask_height", "mask_width"],
    }
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


def test_equal_checkpoints_make_equal_bytes() -> None:
    content = checkpoint(random_network())
    assert to_onnx(content) == to_onnx(content)


def test_averaged_weights_win() -> None:
    plain, averaged = random_network(1), random_network(2)
    assert to_onnx(checkpoint(plain, ema=averaged)) == to_onnx(checkpoint(averaged))
    assert to_onnx(checkpoint(plain)) != to_onnx(checkpoint(averaged))


def test_half_precision_and_folded_normalisations() -> None:
    """What releases are saved in; folded convolutions have a bias and no normalisation."""
    network = random_network()
    halved = to_onnx(checkpoint(network.half()))
    wanted = open_engine(halved, engine="onnxruntime", accelerator="cpu")
    network.float()
    module: Any
    for module in network.modules():
        if hasattr(module, "bn"):
            module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
            del module.bn
    folded = open_engine(to_onnx(checkpoint(network)), engine="onnxruntime", accelerator="cpu")
    images = pixels(1, 64, 64)
    for ours, theirs in zip(folded.run(images), wanted.run(images), strict=True):
        assert np.abs(ours - theirs).max() < 1e-3


def no_network() -> bytes:
    stream = io.BytesIO()
    torch.save({"model": {"weight": torch.zeros(1)}, "ema": None}, stream)
    return stream.getvalue()


def other_activation() -> bytes:
    network: Any = random_network()
    network.model[0].act = nn.ReLU()
    return checkpoint(network)


def unknown_layer() -> bytes:
    network: Any = random_network()
    network.model[9] = nn.Identity()
    network.model[9].f = -1
    return checkpoint(network)


def weights_used_over_and_over() -> bytes:
    network: Any = random_network()
    last = network.model[-1]
    network.model = nn.Sequential(*network.model[:-1], *[network.model[23]] * 200, last)
    return checkpoint(network)


def without_segment() -> bytes:
    network: Any = random_network()
    network.model = network.model[:-1]
    return checkpoint(network)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (no_network, "no SegmentationModel"),
        (other_activation, "activation is ReLU"),
        (unknown_layer, "no layer Identity"),
        (without_segment, "no layer that segments"),
        (weights_used_over_and_over, "many times over"),
        (lambda: b"not a zip archive", "no PyTorch checkpoint"),
        (lambda: checkpoint(random_network())[:-100], "no PyTorch checkpoint"),
    ],
)
def test_other_files_are_refused(make: Any, complaint: str) -> None:
    with pytest.raises(ModelMissing, match=complaint):
        to_onnx(make())


def test_tensors_are_read_as_torch_wrote_them() -> None:
    whole = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    values = {
        "whole": whole,
        "columns": whole.t()[1:3],  # strides and an offset of their own
        "half": torch.tensor([0.5, -1.5], dtype=torch.float16),
        "count": torch.tensor(7),
        "flag": torch.tensor([True, False]),
        "none": torch.zeros(0, 3),
        "learnt": nn.Parameter(torch.tensor([[3.25]])),
    }
    stream = io.BytesIO()
    torch.save(values, stream)
    opened = Checkpoint(stream.getvalue())
    assert list(opened.root) == list(values)
    for name, tensor in values.items():
        got, wanted = opened.tensor(opened.root[name]), tensor.detach().numpy()
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        assert np.array_equal(got, wanted)


def archive(document: bytes, storage: bytes = bytes(16), method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as opened:
        opened.writestr("archive/data.pkl", document)
        opened.writestr("archive/data/0", storage)
    return stream.getvalue()


def tensor(shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> bytes:
    """A pickle of a tensor over the storage of :func:`archive`: four float32."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"

    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQ"
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"I%d\n" % offset
        + numbers(shape)
        + numbers(strides)
        + b"I00\nNtR."
    )


def test_the_handmade_tensor_is_one() -> None:
    """What the next test breaks is right before it is broken."""
    opened = Checkpoint(archive(tensor((2, 2), (2, 1)), np.arange(4, dtype="<f4").tobytes()))
    assert opened.tensor(opened.root).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (archive(tensor((5,), (1,))), "longer than its storage"),
        (archive(tensor((2, 2), (4, 1))), "a stride that leads out"),
        (archive(tensor((2,), (1,), 3)), "an offset that leads out"),
        (archive(tensor((2,), (1,), -1)), "a negative offset"),
        (archive(tensor((2,), (-1,), 2)), "a negative stride"),
        (archive(tensor((1 << 40,), (0,))), "one value as a terabyte"),
        (archive(tensor((2, 2), (1,))), "fewer strides than sides"),
        (archive(tensor((4,), (1,)), method=zipfile.ZIP_DEFLATED), "a compressed storage"),
        (archive(tensor((4,), (1,)).replace(b"V0\n", b"V../1\n")), "no such storage"),
        (archive(b"\x80\x02I1\n."), "no tensor"),
    ],
)
def test_a_tensor_beyond_its_storage(content: bytes, why: str) -> None:
    opened = Checkpoint(content)
    with pytest.raises(ModelMissing, match="a tensor of the checkpoint"):
        opened.tensor(opened.root)
    assert why


@pytest.mark.parametrize(
    "name",
    [
        "posix\nsystem",
        "os\nsystem",
        "subprocess\nPopen",
        "builtins\neval",
        "__builtin__\nexec",
        "builtins\n__import__",
        "torch\nload",
        "torch.hub\nload",
        "torch.serialization\nload",
        "modelsx\nConv",
        "numpy.core.multiarray\n_reconstruct",
        "functools\npartial",
        "operator\nattrgetter",
        "pathlib\nPosixPath",
    ],
)
def test_a_pickle_bomb_is_refused_and_runs_nothing(name: str, tmp_path: Any) -> None:
    trace = tmp_path / "ran"
    document = f"\x80\x02c{name}\n(Vtouch {trace}\ntR.".encode("latin-1")
    with pytest.raises(ModelMissing, match="which no network needs"):
        Checkpoint(archive(document))
    assert not trace.exists()


def test_getattr_and_classes_of_networks_are_only_recorded(tmp_path: Any) -> None:
    """``getattr`` stands for a method that a module kept: it looks nothing up."""
    document = b"\x80\x02c__builtin__\ngetattr\n(cmodels.common\nConv\nVforward\ntR."
    root = Checkpoint(archive(document)).root
    assert isinstance(root, Record)
    assert root.origin == "__builtin__.getattr"
    assert root.arguments[1] == "forward"
    called = Checkpoint(archive(b"\x80\x02ctorch.nn.modules.conv\nConv2d\n(I3\ntR.")).root
    assert (called.kind, called.arguments, called.state) == ("Conv2d", (3,), {})


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (b"\x80\x02}r\xff\xff\xff\x7f.", "memo"),
        (b"\x80\x02cmodels.common\nConv\n}b.", "cannot be read"),  # a state for the class itself
        (b"\x80\x02cmodels.common\nConv\n)\x81I1\nb.", "no dictionary"),
        (b"\x80\x02(", "cannot be read"),
        (b"", "cannot be read"),
        (b"\x80\x02N." + bytes(5 << 20), "structure takes"),
    ],
)
def test_a_broken_or_hostile_pickle(document: bytes, complaint: str) -> None:
    with pytest.raises(ModelMissing, match=complaint):
        Checkpoint(archive(document))


def test_an_archive_of_something_else() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        opened.writestr("readme.txt", "nothing here")
    with pytest.raises(ModelMissing, match=r"holds no data\.pkl"):
        Checkpoint(stream.getvalue())
