"""Words and pixels, against transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import BertTokenizer
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from facegraph.errors import ConfigError
from facegraph.vision.blip_pixels import Preprocessing, read_preprocessing
from facegraph.vision.blip_tokenizer import read_tokenizer
from tests.blip_making import write_vocabulary
from tests.photos import GROUP, pixels

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "size", [(384, 384), (1, 1), (2, 3), (17, 640), (901, 31), (383, 385), (1200, 1600)]
)
def test_pixels_equal_transformers_to_the_last_bit(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    processor: Any = BlipImageProcessorPil()
    wanted = processor([Image.fromarray(image)], return_tensors="np")["pixel_values"]
    blob = Preprocessing(384).blob([image])
    assert blob.dtype == np.float32
    assert blob.shape == (1, 3, 384, 384)
    assert np.array_equal(blob, wanted)


def test_pixels_of_a_photo_and_of_several() -> None:
    photo = pixels(GROUP)
    images = [photo, photo[::2, ::-1], photo[:100, :50]]
    processor: Any = BlipImageProcessorPil()
    wanted = processor([Image.fromarray(image) for image in images], return_tensors="np")
    assert np.array_equal(Preprocessing(384).blob(images), wanted["pixel_values"])


def test_the_default_is_how_blip_was_trained(tmp_path: Path) -> None:
    white = read_preprocessing(tmp_path, 384).blob([np.full((9, 9, 3), 255, np.uint8)])
    wanted = [(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258]
    assert white[0, :2, 0, 0].tolist() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_a_folder_says_how_its_model_was_trained(tmp_path: Path, name: str) -> None:
    told = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "resample": 2, "size": 64}
    told |= {"rescale_factor": 0.004, "do_normalize": True}
    inner = {"image_processor": told} if name.startswith("processor") else told
    (tmp_path / name).write_text(json.dumps(inner))
    read = read_preprocessing(tmp_path, 64)
    assert read == Preprocessing(64, 2, 0.004, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)
    build: Any = BlipImageProcessorPil
    processor = build(**told | {"size": {"height": 64, "width": 64}})
    wanted = processor([Image.fromarray(image)], return_tensors="np")["pixel_values"]
    assert np.array_equal(read.blob([image]), wanted)


@pytest.mark.parametrize(
    "told",
    [
        {"size": {"height": 224, "width": 224}},
        {"size": {"shortest_edge": 64}},
        {"do_normalize": False},
        {"do_center_crop": True},
        {"image_std": [0, 1, 1]},
        {"image_mean": [0.5, 0.5]},
        {"image_mean": "grey"},
        {"resample": 99},
        [],
    ],
)
def test_a_folder_that_asks_for_something_else(tmp_path: Path, told: object) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json"):
        read_preprocessing(tmp_path, 64)


@pytest.mark.parametrize("source", ["vocab.txt", "tokenizer.json"])
@pytest.mark.parametrize(
    "text",
    [
        "a picture of ",
        "A  Picture\tof\n",
        "Ünïcode dogs, cats' tables.",
        "running-dogs. [SEPARATE]",
        "中文 and emoji 🐶",
        "x" * 300,
        "",
    ],
)
def test_words_equal_transformers(tmp_path: Path, source: str, text: str) -> None:
    write_vocabulary(tmp_path)
    build: Any = BertTokenizer
    theirs = build(vocab=str(tmp_path / "vocab.txt"))
    if source == "tokenizer.json":
        theirs.save_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path)
    tokens = ours.encode(text)
    assert tokens == theirs(text, add_special_tokens=False).input_ids
    assert ours.decode(tokens) == theirs.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A dog's ball", "a dog's ball"),
        ("they're on it, isn't it", "they're on it, isn't it"),
        ("'s", "' s"),  # nothing before
        ("'sit'", "' sit '"),  # a quotation
        ("a ' sit", "a ' sit"),
    ],
)
def test_apostrophes_join_what_they_stand_between(tmp_path: Path, text: str, said: str) -> None:
    write_vocabulary(tmp_path)
    words = read_tokenizer(tmp_path)
    assert words.decode(words.encode(text)) == said


def test_special_and_unknown_tokens_say_nothing(tmp_path: Path) -> None:
    write_vocabulary(tmp_path)
    words = read_tokenizer(tmp_path)
    dog, sits = words.encode("dog sits")
    assert words.decode([words.pad, dog, words.size, sits, words.end, 10**6]) == "dog sits"


def test_a_caption_may_begin_within_a_word(tmp_path: Path) -> None:
    write_vocabulary(tmp_path)
    words = read_tokenizer(tmp_path)
    (_, more) = words.encode("dogs")
    assert words.decode([more, *words.encode("on the table.")]) == "s on the table."


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.txt", b"[PAD]\n[UNK]\n[SEP]\ndog\ndog\n"),
        ("vocab.txt", b"[PAD]\n[UNK]\n[SEP]\n\xff\n"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"\x00"),
    ],
)
def test_a_vocabulary_that_is_none(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        read_tokenizer(tmp_path)
