"""YOLACT's checkpoints: official keys load, everything else is refused by name, nothing runs."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from facegraph.errors import ConfigError, ModelMissing
from facegraph.vision.yolact.checkpoint import load_network, official_tensors
from facegraph.vision.yolact.configs import CONFIGS, YolactConfig
from tests import yolact_reference as reference

pytestmark = pytest.mark.unit

DEPTHS = {"base": 101, "im700": 101, "resnet50": 50}

TINY = YolactConfig("tiny", (1, 1, 1, 1), 96, (24, 48, 96, 192, 384))


@pytest.fixture(scope="module", params=[50, 101])
def official(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, Path, dict[str, Tensor]]]:
    """Depth of the ResNet, a file as the authors wrote theirs, what it holds."""
    depth: int = request.param
    path = tmp_path_factory.mktemp("yolact") / "official.pth"
    state = reference.random_state(reference.official_shapes(reference.STAGES[depth]))
    reference.save_legacy(state, path)
    yield depth, path, state
    path.unlink()


@pytest.fixture(scope="module")
def tiny() -> dict[str, Tensor]:
    """One value for each key, stored once, so that files stay small."""
    shapes = reference.official_shapes(TINY.blocks)
    return {
        key: torch.tensor(row if key.endswith("num_batches_tracked") else row / 8).expand(shape)
        for row, (key, shape) in enumerate(shapes.items())
    }


@pytest.mark.parametrize("depth", [50, 101])
def test_the_reference_counts_as_published(depth: int) -> None:
    shapes = reference.official_shapes(reference.STAGES[depth])
    counts = {
        name: torch.Size(shape).numel()
        for name, shape in shapes.items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    backbone = sum(count for name, count in counts.items() if name.startswith("backbone."))
    assert backbone == reference.RESNET_PARAMETERS[depth]
    rest = sum(counts.values()) - backbone
    # Pyramid with its leftover level, prototypes, head, semantic segmentation.
    assert rest == 4_458_752 + 2_368_544 + 1_399_135 + 20_560
    assert len(shapes) == {50: 53, 101: 104}[depth] * 6 + 38


@pytest.mark.parametrize("name", CONFIGS)
def test_keys_and_shapes_are_the_official_ones(name: str) -> None:
    tensors = official_tensors(CONFIGS[name])
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    assert shapes == reference.official_shapes(reference.STAGES[DEPTHS[name]])


def test_official_files_load(official: tuple[int, Path, dict[str, Tensor]]) -> None:
    depth, path, state = official
    unused = ("semantic_seg_conv.", "fpn.downsample_layers.2.")
    for name in (name for name, other in DEPTHS.items() if other == depth):
        network = load_network(path, CONFIGS[name])
        loaded = {
            key: value
            for key, value in network.state_dict().items()
            if not key.endswith("num_batches_tracked")
        }
        assert all(torch.equal(value, state[key]) for key, value in loaded.items())
        left = [key for key in state if key not in loaded and "num_batches" not in key]
        assert len(left) == 4
        assert all(key.startswith(unused) for key in left)
        assert not network.training


def test_another_networks_file_is_refused(official: tuple[int, Path, dict[str, Tensor]]) -> None:
    depth, path, _ = official
    # Seventeen bottlenecks more or less; counters are not needed.
    name, fault, rest = {
        50: ("base", "missing", 17 * 15 - 3),
        101: ("resnet50", "unknown", 17 * 18 - 3),
    }[depth]
    sentence = f"configuration {name}: {fault} backbone.layers.2.6.conv1.weight, .* and {rest} more"
    with pytest.raises(ConfigError, match=f"{sentence}$"):
        load_network(path, CONFIGS[name])


@pytest.mark.parametrize("save", [torch.save, reference.save_legacy])
@pytest.mark.parametrize("stripped", [False, True])
def test_both_formats_with_and_without_what_only_training_needs(
    tmp_path: Path,
    tiny: dict[str, Tensor],
    save: Callable[[dict[str, Tensor], Path], None],
    stripped: bool,
) -> None:
    unneeded = ("semantic_seg_conv", "fpn.downsample_layers.2", "num_batches_tracked")
    state = {
        key: value
        for key, value in tiny.items()
        if not (stripped and any(part in key for part in unneeded))
    }
    save(state, tmp_path / "tiny.pth")
    network = load_network(tmp_path / "tiny.pth", TINY)
    # In place, because the network must not hang on the file.
    (tmp_path / "tiny.pth").write_bytes(b"")
    key = "prediction_layers.0.conf_layer.weight"
    assert torch.equal(network.get_parameter(key), tiny[key])


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        del state[key]

    return change


def _with(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        state[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_without("proto_net.10.bias"), "missing proto_net.10.bias"),
        (_without("backbone.bn1.running_var"), "missing backbone.bn1.running_var"),
        (
            _with("fpn.downsample_layers.3.weight", torch.zeros(1)),
            "unknown fpn.downsample_layers.3.weight",
        ),
        (
            _with("prediction_layers.1.bbox_layer.bias", torch.zeros(12)),
            "unknown prediction_layers.1.bbox_layer.bias",
        ),
        (
            _with("prediction_layers.0.conf_layer.bias", torch.zeros(63)),
            r"misshapen prediction_layers.0.conf_layer.bias \(63 instead of 243\)",
        ),
        (
            _with("semantic_seg_conv.weight", torch.zeros(20, 256, 1, 1)),
            r"misshapen semantic_seg_conv.weight \(20×256×1×1 instead of 80×256×1×1\)",
        ),
        (
            _with("backbone.bn1.num_batches_tracked", torch.zeros(2, dtype=torch.int64)),
            r"misshapen backbone.bn1.num_batches_tracked \(2 instead of a scalar\)",
        ),
        (
            _with("proto_net.10.bias", torch.zeros(32, dtype=torch.int64)),
            r"misshapen proto_net.10.bias \(torch.int64 instead of 32\)",
        ),
        (
            _with("proto_net.10.bias", torch.zeros(32).to_sparse()),
            r"misshapen proto_net.10.bias \(torch.float32 instead of 32\)",
        ),
        (
            _with("proto_net.10.bias", [0.0] * 32),
            r"misshapen proto_net.10.bias \(list instead of 32\)",
        ),
    ],
)
def test_a_key_that_does_not_fit_is_named(
    tmp_path: Path,
    tiny: dict[str, Tensor],
    change: Callable[[dict[str, Any]], None],
    sentence: str,
) -> None:
    state: dict[str, Any] = dict(tiny)
    change(state)
    torch.save(state, tmp_path / "tiny.pth")
    with pytest.raises(ConfigError, match=f"^tiny.pth is no .* configuration tiny: {sentence}$"):
        load_network(tmp_path / "tiny.pth", TINY)


class Bomb:
    """Makes a folder when a plain unpickler reads it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.mkdir, (self._folder,)


def _pickled(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [torch.save, reference.save_legacy, _pickled])
def test_a_pickle_bomb_does_not_go_off(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    path, folder = tmp_path / "yolact_base_54_800000.pth", tmp_path / "gone off"
    save({"backbone.conv1.weight": Bomb(folder)}, path)
    with pytest.raises(ModelMissing, match="nothing in it was run"):
        load_network(path, TINY)
    assert not folder.exists()
    # The bomb is one.
    if save is _pickled:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert folder.is_dir()


@pytest.mark.parametrize("save", [torch.save, reference.save_legacy])
@pytest.mark.parametrize("part", [0.0, 0.0001, 0.5, 0.999])
def test_a_truncated_file_is_damaged(
    tmp_path: Path, save: Callable[[Any, Path], None], part: float
) -> None:
    path = tmp_path / "yolact_base_54_800000.pth"
    save({"weight": torch.zeros(100_000)}, path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ModelMissing, match=r"^yolact_base_54_800000.pth is damaged, or "):
        load_network(path, TINY)


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "not weights")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"<html>404</html>", b"\x89PNG\r\n\x1a\n" + bytes(100), _archive(), b"\x80\x02}q\x00."],
    ids=["html", "png", "zip", "empty dict"],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ModelMissing, match=r"^model.pth is damaged, or "):
        load_network(tmp_path / "model.pth", TINY)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(2), {1: torch.zeros(1)}])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ConfigError, match=r"^model.pth holds no state dict"):
        load_network(tmp_path / "model.pth", TINY)


def test_an_absent_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="there is no file"):
        load_network(tmp_path / "model.pth", TINY)
