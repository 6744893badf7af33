"""The captioner on a tiny BLIP, against transformers' own way of doing the same."""

from __future__ import annotations

import json
import os
import socket
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import BertTokenizer, BlipForConditionalGeneration
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from facegraph.errors import (
    ConfigError,
    FacegraphError,
    InvalidRequest,
    ModelMissing,
    ModelUnavailable,
)
from facegraph.types import ByteArray, CaptionOptions
from facegraph.vision import torch_device
from facegraph.vision.blip import BlipCaptioner, computes_bf16
from tests.blip_making import IMAGE_SIZE, WORDS, file_model, folder_model, make_tiny_blip

pytestmark = pytest.mark.unit

END, PAD = WORDS.index("[SEP]"), WORDS.index("[PAD]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blip") / "tiny"
    make_tiny_blip(folder)
    return folder


@pytest.fixture(scope="module")
def captioner(folder: Path) -> BlipCaptioner:
    return BlipCaptioner(folder_model(folder), precision="fp32")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def pictures() -> list[ByteArray]:
    random = np.random.default_rng(0)
    sizes = ((40, 60), (100, 20), (48, 48), (1, 1), (333, 7))
    return [random.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def content(row: Sequence[int]) -> list[int]:
    """Up to the end; what follows only fills the row."""
    row = list(row)
    return row[: row.index(END)] if END in row else row


class Reference:
    """What a reader of transformers' documentation would write."""

    def __init__(self, folder: Path) -> None:
        load: Any = BlipForConditionalGeneration.from_pretrained
        self.network = load(folder, local_files_only=True).eval()
        tokenizer: Any = BertTokenizer
        self.tokenizer = tokenizer.from_pretrained(folder, local_files_only=True)
        size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        self.processor: Any = BlipImageProcessorPil(size=size)

    def tokens(self, images: Sequence[ByteArray], options: CaptionOptions) -> list[list[int]]:
        said: dict[str, Tensor] = {}
        if options.prompt:
            words = self.tokenizer([options.prompt] * len(images), return_tensors="pt")
            said = {"input_ids": words.input_ids, "attention_mask": words.attention_mask}
        pixels = self.processor([Image.fromarray(image) for image in images], return_tensors="pt")
        rows: list[list[int]] = self.network.generate(
            pixel_values=pixels.pixel_values,
            num_beams=options.num_beams,
            max_length=options.max_length,
            min_length=options.min_length,
            do_sample=False,
            **said,
        ).tolist()
        return rows

    def caption(self, row: Sequence[int], prompt: str) -> str:
        text: str = self.tokenizer.decode(
            row, skip_special_tokens=True, clean_up_tokenization_spaces=True
        )
        # Where an image goes on with a word of nothing, or with the prompt's last one.
        return text.removeprefix(prompt.strip()).strip().removeprefix("##")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


@pytest.mark.parametrize("batch", [1, 3, 5])
@pytest.mark.parametrize("prompt", ["a picture of ", "", "the old dog"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_token_by_token_what_transformers_generates(
    captioner: BlipCaptioner, reference: Reference, num_beams: int, prompt: str, batch: int
) -> None:
    options = CaptionOptions(num_beams=num_beams, prompt=prompt)
    images = pictures()[:batch]
    wanted = reference.tokens(images, options)
    assert captioner.tokens(images, options) == wanted
    texts = [reference.caption(row, prompt) for row in wanted]
    assert captioner.caption(images, options) == texts
    assert all(texts)


@pytest.mark.parametrize(
    "options",
    [
        CaptionOptions(max_length=5),
        CaptionOptions(max_length=40, min_length=30),
        CaptionOptions(num_beams=5, max_length=12, min_length=12),
    ],
)
def test_lengths_count_as_in_transformers(
    captioner: BlipCaptioner, reference: Reference, options: CaptionOptions
) -> None:
    rows = captioner.tokens(pictures(), options)
    assert rows == reference.tokens(pictures(), options)
    for row in rows:
        assert options.min_length <= len(content(row)) <= options.max_length


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_caption_does_not_depend_on_the_images_beside_it(
    captioner: BlipCaptioner, num_beams: int
) -> None:
    options = CaptionOptions(num_beams=num_beams)
    alone = [content(captioner.tokens([image], options)[0]) for image in pictures()]
    together = [content(row) for row in captioner.tokens(pictures(), options)]
    backwards = [content(row) for row in captioner.tokens(pictures()[::-1], options)]
    assert together == alone
    assert backwards[::-1] == alone
    assert len({len(row) for row in alone}) > 1  # else no row ever waited for another
    assert len({tuple(row) for row in alone}) == len(alone)


def test_no_image_no_caption(captioner: BlipCaptioner) -> None:
    assert captioner.caption([], CaptionOptions()) == []


@pytest.mark.parametrize("prompt", ["A Picture OF", "  a picture   of ", "\ta picture of\n"])
def test_the_prompt_is_taken_off_however_it_is_written(
    captioner: BlipCaptioner, prompt: str
) -> None:
    plain = captioner.caption(pictures(), CaptionOptions())
    assert captioner.caption(pictures(), CaptionOptions(prompt=prompt)) == plain


def test_special_tokens_in_a_prompt_are_words(captioner: BlipCaptioner) -> None:
    options = CaptionOptions(prompt="[SEP] a dog [PAD]", max_length=40)
    spelled = ["[", "sep", "]", "a", "dog", "[", *("p", "##a", "##d"), "]"]
    for row in captioner.tokens(pictures(), options):
        assert [WORDS[token] for token in row[1 : len(spelled) + 1]] == spelled
    assert all(captioner.caption(pictures(), options))


def test_a_caption_has_a_word_even_after_a_long_prompt(captioner: BlipCaptioner) -> None:
    options = CaptionOptions(prompt="a dog and a cat and a horse", min_length=1)
    prompt = 1 + len(options.prompt.split())
    for row in captioner.tokens(pictures(), options):
        assert row[prompt] != END


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (CaptionOptions(num_beams=0), "num_beams"),
        (CaptionOptions(num_beams=1_000_000), "num_beams"),
        (CaptionOptions(min_length=0), "min_length"),
        (CaptionOptions(min_length=21), "min_length"),  # more than max_length
        (CaptionOptions(max_length=65), "max_length"),  # positions end at 64
        (CaptionOptions(max_length=-1), "max_length"),
        (CaptionOptions(prompt="a " * 19), "prompt"),  # 20 with the first: no room
        (CaptionOptions(prompt="a " * 100_000), "prompt"),
    ],
)
def test_options_out_of_bounds(
    captioner: BlipCaptioner, options: CaptionOptions, names: str
) -> None:
    with pytest.raises(InvalidRequest, match=names):
        captioner.caption(pictures()[:1], options)


def test_the_last_token_of_room_is_used(captioner: BlipCaptioner) -> None:
    options = CaptionOptions(prompt="a " * 18)
    assert [len(row) for row in captioner.tokens(pictures()[:2], options)] == [20, 20]


def too_much(*_: Any, **__: Any) -> Any:
    return torch.empty(1 << 55)


def raising(error: Exception) -> Callable[..., Any]:
    def run(*_: Any, **__: Any) -> Any:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (too_much, "ran out of memory"),
        (raising(MemoryError()), "ran out of memory"),
        (raising(torch.OutOfMemoryError("CUDA out of memory. Tried …")), "ran out of memory"),
        (raising(RuntimeError("sizes differ\nadvice")), "could not run: sizes differ$"),
    ],
    ids=["cpu allocator", "python", "cuda", "other"],
)
def test_a_run_that_fails_leaves_the_captioner_usable(
    captioner: BlipCaptioner,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., Any],
    says: str,
) -> None:
    wanted = captioner.caption(pictures(), CaptionOptions())
    with monkeypatch.context() as patch:
        patch.setattr(captioner._network.text_decoder.bert, "forward", run)
        with pytest.raises(ModelUnavailable, match=says):
            captioner.caption(pictures(), CaptionOptions())
    assert captioner.caption(pictures(), CaptionOptions()) == wanted


def test_the_error_holds_no_tensor_of_the_run(
    captioner: BlipCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Tensor]] = []

    def forward(*_: Any, encoder_hidden_states: Tensor, **__: Any) -> Any:
        held.append(weakref.ref(encoder_hidden_states))
        raise MemoryError

    monkeypatch.setattr(torch_device.log, "disabled", True)  # pytest keeps what is logged
    monkeypatch.setattr(captioner._network.text_decoder.bert, "forward", forward)
    with pytest.raises(ModelUnavailable) as caught:
        captioner.caption(pictures(), CaptionOptions())
    assert caught.value.__context__ is None
    assert [ref() for ref in held] == [None]


@pytest.mark.parametrize("run", [too_much, raising(MemoryError())])
def test_no_memory_to_load_is_no_damaged_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    monkeypatch.setattr(BlipForConditionalGeneration, "from_pretrained", run)
    with pytest.raises(ModelUnavailable, match="tiny cannot be loaded: it ran out of memory"):
        BlipCaptioner(folder_model(folder))


def test_description(captioner: BlipCaptioner, folder: Path) -> None:
    weights = next(f for f in folder_model(folder).files if f.name == "model.safetensors")
    described = captioner.describe()
    assert described.pop("engine").startswith("transformers 5.")
    assert described == {
        "kind": "blip",
        "pack": "tiny",
        "config": "base",
        "file": "model.safetensors",
        "sha256": weights.sha256,
        "licence": "MIT",
        "provider": "cpu",
        "precision": "fp32",
    }


def test_bf16_says_nearly_the_same(captioner: BlipCaptioner, folder: Path) -> None:
    rounded = BlipCaptioner(folder_model(folder), precision="bf16")
    assert rounded.describe()["precision"] == "bf16"
    prompt = torch.tensor([[len(WORDS), 5, 6, 7]])
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = (
            network(pixel_values=pixels.to(network.dtype), input_ids=prompt).logits[0, -1].float()
            for network in (rounded._network, captioner._network)
        )
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.99
    assert len(rounded.caption(pictures(), CaptionOptions())) == len(pictures())


def test_auto_is_what_the_processor_computes_in(folder: Path) -> None:
    able = computes_bf16(torch.device("cpu"))
    described = BlipCaptioner(folder_model(folder)).describe()
    assert described["precision"] == ("bf16" if able else "fp32")


def test_threads_hold_for_the_thread_that_calls(folder: Path) -> None:
    captioner = BlipCaptioner(folder_model(folder), threads=2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)  # as another model in the process would
    captioner.caption(pictures()[:1], CaptionOptions())
    assert torch.get_num_threads() == 2


def test_cuda_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        BlipCaptioner(folder_model(folder), accelerator="cuda")


def test_nothing_is_fetched_or_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*address: Any) -> None:
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    captioner = BlipCaptioner(folder_model(folder))
    captioner.caption(pictures(), CaptionOptions())
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A captioner's folder of the test's own."""
    make_tiny_blip(tmp_path)
    return tmp_path


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def to_bin(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """The folder's weights as the hub's older file, after ``change``."""
    state = BlipForConditionalGeneration.from_pretrained(folder).state_dict()
    change(state)
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_the_layout_of_the_files_on_the_hub(captioner: BlipCaptioner, copy: Path) -> None:
    """Of 2022: a pickle, a constant among the weights, options of the search in config.json."""
    key = "text_decoder.bert.embeddings.position_ids"
    to_bin(copy, lambda state: state.update({key: torch.arange(64)[None]}))
    (copy / "generation_config.json").unlink()
    search = {"num_beams": 7, "max_length": 9, "min_length": 8, "length_penalty": 3.0}
    search |= {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "do_sample": True}
    rewrite(copy / "config.json", lambda values: values["text_config"].update(search))
    loaded = BlipCaptioner(folder_model(copy), precision="fp32")
    wanted = captioner.tokens(pictures(), CaptionOptions())
    assert loaded.tokens(pictures(), CaptionOptions()) == wanted


def test_the_vocabulary_alone_serves_too(captioner: BlipCaptioner, copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    loaded = BlipCaptioner(folder_model(copy), precision="fp32")
    wanted = captioner.caption(pictures(), CaptionOptions())
    assert loaded.caption(pictures(), CaptionOptions()) == wanted


FIRST = "vision_model.embeddings.class_embedding"


def misshape(state: dict[str, Tensor]) -> None:
    state[FIRST] = torch.zeros(1, 1, 33)


BROKEN: list[tuple[str, Callable[[Path], object], type[FacegraphError], str]] = [
    ("no config", lambda f: (f / "config.json").unlink(), ModelMissing, "config.json"),
    (
        "another model's",
        lambda f: rewrite(f / "config.json", lambda v: v.update(model_type="bert")),
        ConfigError,
        "'bert'",
    ),
    ("a list", lambda f: (f / "config.json").write_text("[]"), ConfigError, "config.json"),
    (
        "half a config",
        lambda f: rewrite(f / "config.json", lambda v: v.pop("text_config")),
        ConfigError,
        "config.json",
    ),
    (
        "no weights",
        lambda f: (f / "model.safetensors").unlink(),
        ModelMissing,
        "no weights.*model.safetensors",
    ),
    (
        "cut weights",
        lambda f: os.truncate(f / "model.safetensors", 1000),
        ModelMissing,
        "cannot be read",
    ),
    ("no words", lambda f: unlink(f, "tokenizer.json", "vocab.txt"), ModelMissing, "vocab.txt"),
    (
        "others' words",
        lambda f: vocabulary(f, "[SEP]\n[UNK]\n[PAD]"),
        ConfigError,
        "vocabulary",
    ),
    (
        "no words at all",
        lambda f: vocabulary(f, "dog\ncat\n"),
        ConfigError,
        r"\[PAD\], \[UNK\], \[SEP\]",
    ),
    ("a missing key", lambda f: to_bin(f, lambda s: s.pop(FIRST)), ConfigError, f"missing {FIRST}"),
    (
        "a key too much",
        lambda f: to_bin(f, lambda s: s.update(more=torch.zeros(1))),
        ConfigError,
        "unknown more",
    ),
    ("a wrong shape", lambda f: to_bin(f, misshape), ConfigError, f"misshapen {FIRST}"),
]


def vocabulary(folder: Path, words: str) -> None:
    unlink(folder, "tokenizer.json")
    (folder / "vocab.txt").write_text(words)


def unlink(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "says"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_a_folder_that_is_not_right(
    copy: Path, spoil: Callable[[Path], object], error: type[FacegraphError], says: str
) -> None:
    spoil(copy)
    with pytest.raises(error, match=says):
        BlipCaptioner(folder_model(copy))


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize("layout", ["folder", "file"])
def test_a_pickle_bomb_is_refused_and_nothing_runs(
    copy: Path, tmp_path_factory: pytest.TempPathFactory, layout: str, archive: bool
) -> None:
    harm = tmp_path_factory.mktemp("harm") / "done"
    unlink(copy, "model.safetensors")
    path = copy / ("pytorch_model.bin" if layout == "folder" else "model_base.pth")
    torch.save({"model": Bomb(harm)}, path, _use_new_zipfile_serialization=archive)
    model = folder_model(copy) if layout == "folder" else file_model(path)
    with pytest.raises(ModelMissing):
        BlipCaptioner(model)
    assert not harm.exists()
    torch.load(path, weights_only=False)
    assert harm.exists()  # it is a bomb
