"""The authors' checkpoints; their keys are derived here from the architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BlipForConditionalGeneration

from facegraph.errors import ConfigError, ModelMissing
from facegraph.types import CaptionOptions
from facegraph.vision.blip import BlipCaptioner
from facegraph.vision.blip_checkpoint import convert, read_captioner, resize_positions
from tests.blip_making import WORDS, file_model, write_vocabulary

pytestmark = pytest.mark.unit

VISION, TEXT, LAYERS, PATCH = 128, 64, 3, 32
"""Widths differ, as in BLIP large."""

FULL, SMALL = (384 // PATCH) ** 2 + 1, (224 // PATCH) ** 2 + 1
"""Positions of a captioner's encoder and of pre-training's."""

WORD = "text_decoder.bert.embeddings.word_embeddings.weight"
POSITIONS = "visual_encoder.pos_embed"

State = dict[str, Tensor]


def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def vision_encoder(name: str, positions: int) -> dict[str, tuple[int, ...]]:
    """timm's ViT without its classifier."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{name}.cls_token": (1, 1, VISION),
        f"{name}.pos_embed": (1, positions, VISION),
        f"{name}.patch_embed.proj.weight": (VISION, 3, PATCH, PATCH),
        f"{name}.patch_embed.proj.bias": (VISION,),
    }
    for block in (f"{name}.blocks.{n}" for n in range(LAYERS)):
        shapes |= norm(f"{block}.norm1", VISION) | norm(f"{block}.norm2", VISION)
        shapes |= linear(f"{block}.attn.qkv", 3 * VISION, VISION)
        shapes |= linear(f"{block}.attn.proj", VISION, VISION)
        shapes |= linear(f"{block}.mlp.fc1", 4 * VISION, VISION)
        shapes |= linear(f"{block}.mlp.fc2", VISION, 4 * VISION)
    return shapes | norm(f"{name}.norm", VISION)


def bert(name: str) -> dict[str, tuple[int, ...]]:
    """BERT without token types and pooler, with attention to an image in every layer."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{name}.embeddings.word_embeddings.weight": (len(WORDS) + 2, TEXT),
        f"{name}.embeddings.position_embeddings.weight": (64, TEXT),
    }
    shapes |= norm(f"{name}.embeddings.LayerNorm", TEXT)
    for layer in (f"{name}.encoder.layer.{n}" for n in range(LAYERS)):
        for kind, into in (("attention", TEXT), ("crossattention", VISION)):
            shapes |= linear(f"{layer}.{kind}.self.query", TEXT, TEXT)
            shapes |= linear(f"{layer}.{kind}.self.key", TEXT, into)
            shapes |= linear(f"{layer}.{kind}.self.value", TEXT, into)
            shapes |= linear(f"{layer}.{kind}.output.dense", TEXT, TEXT)
            shapes |= norm(f"{layer}.{kind}.output.LayerNorm", TEXT)
        shapes |= linear(f"{layer}.intermediate.dense", 4 * TEXT, TEXT)
        shapes |= linear(f"{layer}.output.dense", TEXT, 4 * TEXT)
        shapes |= norm(f"{layer}.output.LayerNorm", TEXT)
    return shapes


def made(shapes: dict[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) / 5 for key, shape in shapes.items()}


def captioner(positions: int = FULL) -> State:
    """What BLIP_Decoder saves."""
    head = "text_decoder.cls.predictions"
    state = made(
        vision_encoder("visual_encoder", positions)
        | bert("text_decoder.bert")
        | {f"{head}.bias": (len(WORDS) + 2,)}
        | linear(f"{head}.transform.dense", TEXT, TEXT)
        | norm(f"{head}.transform.LayerNorm", TEXT)
    )
    state["text_decoder.bert.embeddings.position_ids"] = torch.arange(64)[None]
    state[f"{head}.decoder.weight"] = state[WORD]
    state[f"{head}.decoder.bias"] = state[f"{head}.bias"].clone()
    return state


def pretrained() -> State:
    """What BLIP_Pretrain saves."""
    rest = vision_encoder("visual_encoder_m", SMALL) | bert("text_encoder") | bert("text_encoder_m")
    for suffix in ("", "_m"):
        rest |= linear(f"vision_proj{suffix}", 16, VISION) | linear(f"text_proj{suffix}", 16, TEXT)
    rest |= linear("itm_head", 2, TEXT)
    rest |= {"temp": (), "image_queue": (16, 30), "text_queue": (16, 30)}
    more: State = {"queue_ptr": torch.zeros(1, dtype=torch.long)}
    for name in ("text_encoder", "text_encoder_m"):
        more[f"{name}.embeddings.position_ids"] = torch.arange(64)[None]
    return captioner(SMALL) | made(rest) | more


EXPECTED = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "blocks.2.norm1.weight": "encoder.layers.2.layer_norm1.weight",
    "blocks.0.norm2.bias": "encoder.layers.0.layer_norm2.bias",
    "blocks.1.attn.qkv.weight": "encoder.layers.1.self_attn.qkv.weight",
    "blocks.1.attn.proj.bias": "encoder.layers.1.self_attn.projection.bias",
    "blocks.2.mlp.fc1.weight": "encoder.layers.2.mlp.fc1.weight",
    "blocks.2.mlp.fc2.bias": "encoder.layers.2.mlp.fc2.bias",
    "norm.weight": "post_layernorm.weight",
}


def test_every_tensor_arrives_and_none_is_left_over() -> None:
    state = captioner()
    config, found = convert(state)
    network: Any = BlipForConditionalGeneration(config)
    network.load_state_dict(found | tied(found), strict=True)
    loaded = network.state_dict()
    for theirs, ours in EXPECTED.items():
        assert torch.equal(loaded[f"vision_model.{ours}"], state[f"visual_encoder.{theirs}"])
    text = [key for key in state if key.startswith("text_decoder.") and "position_ids" not in key]
    for key in text:
        assert torch.equal(loaded[key], state[key])
    # Every vision tensor once: sums over all elements agree, and so do the counts.
    found_there, made_here = part(loaded, "vision_model."), part(state, "visual_encoder.")
    assert len(made_here) == 4 + LAYERS * 12 + 2
    assert sorted(v.sum().item() for v in found_there) == sorted(v.sum().item() for v in made_here)
    assert len(loaded) == len(found_there) + len(text)


def part(state: State, prefix: str) -> list[Tensor]:
    return [value for key, value in state.items() if key.startswith(prefix)]


def tied(found: State) -> State:
    head = "text_decoder.cls.predictions"
    return {f"{head}.decoder.weight": found[WORD], f"{head}.decoder.bias": found[f"{head}.bias"]}


def test_the_shapes_say_what_the_network_is() -> None:
    config = convert(captioner()).config
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_attention_heads, vision.num_hidden_layers) == (128, 2, 3)
    assert (vision.image_size, vision.patch_size, vision.layer_norm_eps) == (384, 32, 1e-6)
    assert (text.hidden_size, text.num_attention_heads, text.num_hidden_layers) == (64, 1, 3)
    assert (text.encoder_hidden_size, text.intermediate_size) == (128, 256)
    assert (text.vocab_size, text.bos_token_id) == (len(WORDS) + 2, len(WORDS))
    assert (text.max_position_embeddings, text.layer_norm_eps) == (64, 1e-12)


def test_pre_training_leaves_a_captioner_for_larger_images() -> None:
    state = pretrained()
    config, found = convert(state)
    assert set(found) == set(convert(captioner()).state)
    assert config.vision_config.image_size == 384
    positions = found["vision_model.embeddings.position_embedding"]
    assert positions.shape == (1, FULL, VISION)
    assert torch.equal(positions, resize_positions(state[POSITIONS], 12))
    assert torch.equal(found[WORD], state[WORD])


def cubic(distance: float) -> float:
    """Keys' kernel with the parameter of torch and OpenCV, -0.75."""
    x, a = abs(distance), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def enlarged(row: Tensor, side: int) -> list[float]:
    """Cells are squares side by side; beyond the outermost ones nothing changes."""
    values = []
    for target in range(side):
        at = (target + 0.5) * len(row) / side - 0.5
        cells = range(int(np.floor(at)) - 1, int(np.floor(at)) + 3)
        near = [min(max(cell, 0), len(row) - 1) for cell in cells]
        weights = [cubic(at - cell) for cell in cells]
        values.append(sum(w * row[n].item() for w, n in zip(weights, near, strict=True)))
    return values


def test_positions_grow_by_cubic_interpolation() -> None:
    row, column = torch.randn(2, 7, 1, generator=torch.Generator().manual_seed(0)).unbind()
    grid = (column @ row.T).reshape(1, 49, 1)
    small = torch.cat([torch.full((1, 1, 1), -5.0), grid], dim=1)
    large = resize_positions(small, 12)
    assert large.shape == (1, 145, 1)
    assert large[0, 0, 0] == -5
    wanted = np.outer(enlarged(column[:, 0], 12), enlarged(row[:, 0], 12))
    assert np.allclose(large[0, 1:, 0].reshape(12, 12), wanted, atol=1e-5)
    assert resize_positions(small, 7) is small


def drop(key: str) -> Callable[[State], object]:
    return lambda state: state.pop(key)


def put(key: str, value: Any) -> Callable[[State], object]:
    return lambda state: state.update({key: value})


def untie(state: State) -> None:
    state["text_decoder.cls.predictions.decoder.weight"] = state[WORD] + 1


BLOCK = "visual_encoder.blocks.1.attn.qkv.weight"
CROSS = "text_decoder.bert.encoder.layer.2.crossattention.self.key.weight"

WRONG: list[tuple[Callable[[State], object], str]] = [
    (drop(BLOCK), f"missing {BLOCK}$"),
    (drop(CROSS), f"missing {CROSS}$"),
    (drop(WORD), f"missing {WORD}$"),
    (drop(POSITIONS), f"missing {POSITIONS}$"),
    (drop("visual_encoder.norm.bias"), r"missing visual_encoder\.norm\.bias$"),
    (put("visual_encoder.head.weight", torch.zeros(2)), r"unknown visual_encoder\.head\.weight$"),
    (put("text_decoder.bert.pooler.dense.bias", torch.zeros(2)), r"unknown text_decoder\.bert\.po"),
    (put("text_encoders.weight", torch.zeros(2)), r"unknown text_encoders\.weight$"),
    (put(BLOCK, torch.zeros(3, 3)), rf"misshapen {BLOCK} \(3×3 instead of 384×128\)$"),
    (put(CROSS, torch.zeros(TEXT, TEXT)), rf"misshapen {CROSS} \(64×64 instead of 64×128\)$"),
    (put(BLOCK, "a word"), rf"misshapen {BLOCK} \(str instead"),
    (put(BLOCK, torch.zeros(384, 128, dtype=torch.int8)), rf"misshapen {BLOCK} \(torch\.int8"),
    (put(POSITIONS, torch.zeros(1, FULL + 1, VISION)), "misshapen visual_encoder.pos_embed"),
    (put(POSITIONS, torch.zeros(FULL, VISION)), "misshapen visual_encoder.pos_embed"),
    (put(WORD, torch.zeros(91, 65)), "widths 128 and 65 are no multiples of 64"),
    (untie, "unexpected values in text_decoder.cls.predictions.decoder.weight"),
    (
        put("text_decoder.bert.embeddings.position_ids", torch.zeros(1, 64, dtype=torch.long)),
        "unexpected values in text_decoder.bert.embeddings.position_ids",
    ),
]


@pytest.mark.parametrize(("spoil", "says"), WRONG)
def test_what_does_not_fit_is_refused_by_name(spoil: Callable[[State], object], says: str) -> None:
    state = captioner()
    spoil(state)
    with pytest.raises(ConfigError, match=says):
        convert(state)


def test_many_faults_are_counted() -> None:
    state = {f"extra.{n}": torch.zeros(1) for n in range(9)} | captioner()
    with pytest.raises(ConfigError, match=r"unknown extra\.0, extra\.1, extra\.2 and 6 more$"):
        convert(state)


@pytest.mark.parametrize(
    "key",
    [
        "text_decoder.cls.predictions.decoder.weight",
        "text_decoder.cls.predictions.decoder.bias",
        "text_decoder.bert.embeddings.position_ids",
    ],
)
def test_what_follows_from_the_rest_may_be_left_out(key: str) -> None:
    state = captioner()
    whole = convert(state).state
    del state[key]
    assert set(convert(state).state) == set(whole)


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize("make", [captioner, pretrained])
def test_a_file_of_the_authors_is_a_captioner(
    tmp_path: Path, make: Callable[[], State], archive: bool
) -> None:
    """Captions equal those of transformers' class with the same tensors set by hand."""
    path, state = tmp_path / "model_base.pth", make()
    torch.save({"model": state, "epoch": 3}, path, _use_new_zipfile_serialization=archive)
    write_vocabulary(tmp_path)
    ours = BlipCaptioner(file_model(path), precision="fp32")
    described = ours.describe()
    assert (described["file"], described["config"]) == ("model_base.pth", "base")

    config, found = convert(state)
    config.text_config.sep_token_id = WORDS.index("[SEP]")
    network: Any = BlipForConditionalGeneration(config)
    network.load_state_dict(found | tied(found))
    images = [np.random.default_rng(n).integers(0, 256, (384, 384, 3), np.uint8) for n in range(2)]
    pixels = torch.from_numpy(ours._preprocessing.blob(images))
    assert pixels.shape == (2, 3, 384, 384)
    wanted = network.eval().generate(pixel_values=pixels, num_beams=3, max_length=20, min_length=5)
    assert ours.tokens(images, CaptionOptions(prompt="")) == wanted.tolist()


def save(tmp_path: Path, root: object) -> Path:
    path = tmp_path / "model_base.pth"
    torch.save(root, path)
    write_vocabulary(tmp_path)
    return path


@pytest.mark.parametrize("root", [{"weights": {}}, {"model": [1]}, [1, 2], {"model": {1: 2}}])
def test_a_file_without_a_state_dict(tmp_path: Path, root: object) -> None:
    with pytest.raises(ConfigError, match=r'model_base\.pth .* state dict under "model"'):
        read_captioner(save(tmp_path, root))


def test_a_file_that_is_absent_cut_or_empty(tmp_path: Path) -> None:
    path = tmp_path / "model_base.pth"
    with pytest.raises(ModelMissing, match=r"no file .*model_base\.pth"):
        read_captioner(path)
    content = save(tmp_path, {"model": captioner()}).read_bytes()
    for cut in (content[: len(content) // 2], b"", b"not weights"):
        path.write_bytes(cut)
        with pytest.raises(ModelMissing, match=r"model_base\.pth is damaged"):
            read_captioner(path)


def test_the_vocabulary_has_to_lie_beside(tmp_path: Path) -> None:
    path = save(tmp_path, {"model": captioner()})
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(ModelMissing, match=rf"put vocab\.txt of bert-base-uncased .*{tmp_path}"):
        BlipCaptioner(file_model(path))


def test_a_vocabulary_of_another_size(tmp_path: Path) -> None:
    path = save(tmp_path, {"model": captioner()})
    with (tmp_path / "vocab.txt").open("a") as words:
        words.write("more\n")
    with pytest.raises(ConfigError, match=f"{len(WORDS) + 1} words, .* trained with {len(WORDS)}"):
        BlipCaptioner(file_model(path))
