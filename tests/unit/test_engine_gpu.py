"""CUDA and TensorRT, with the session mocked: this shows what they are asked for, no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from facegraph.config import Settings, settings_from
from facegraph.errors import ConfigError
from facegraph.models.engines import EngineName, open_engine
from facegraph.models.engines.base import Trial
from facegraph.models.engines.onnxruntime import tensorrt_available
from tests.unit.fake_engines import CPU, CUDA, TENSORRT, FakeSession, gpu

__all__ = ["gpu"]

pytestmark = pytest.mark.unit

GIB = 2**30
MODEL = b"a model"


@pytest.fixture
def tried(tmp_path: Path) -> Trial:
    rows = np.random.default_rng(0).normal(size=(3, 1, 3, 112, 112)).astype(np.float32)
    sizes = [(1, 3, 112, 112), (64, 3, 112, 112)]
    return Trial(lambda _: list(rows), tmp_path / "engines", (1, 4), lambda _: sizes)


def test_cuda(gpu: type[FakeSession]) -> None:
    engine = open_engine(MODEL, accelerator="cuda", gpu_memory_bytes=2 * GIB)
    (session,) = gpu.opened
    assert session.providers == [
        (
            CUDA,
            {
                "use_tf32": 0,
                "arena_extend_strategy": "kSameAsRequested",
                "gpu_mem_limit": 2 * GIB,
            },
        ),
        CPU,
    ]
    assert (engine.name, engine.provider, engine.best_batch) == ("onnxruntime", CUDA, 64)


def test_tensorrt(gpu: type[FakeSession], tried: Trial) -> None:
    engine = open_engine(
        MODEL, engine="tensorrt", accelerator="cuda", gpu_memory_bytes=2 * GIB, trial=tried
    )
    # Whatever the session computes here is the same, so the rounded one keeps its place.
    assert (engine.name, engine.provider, engine.best_batch) == ("tensorrt", TENSORRT, 64)
    assert engine.choice is not None
    assert engine.choice.label == "tensorrt float16"
    built = str(tried.folder / "tensorrt")
    assert Path(built).is_dir()
    rounded, exact = (s for s in gpu.opened if TENSORRT in s.options)
    for session, fp16 in ((rounded, True), (exact, False)):
        (_, options), (_, cuda), last = session.providers
        assert options == {
            "trt_fp16_enable": fp16,
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": built,
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": built,
            "trt_max_workspace_size": GIB,
            "trt_profile_min_shapes": "data:1x3x112x112",
            "trt_profile_opt_shapes": "data:64x3x112x112",
            "trt_profile_max_shapes": "data:64x3x112x112",
        }
        # The workspace and the arena stay within the cap together.
        assert options["trt_max_workspace_size"] + cuda["gpu_mem_limit"] == 2 * GIB
        assert last == CPU


@pytest.mark.parametrize("engine", ["auto", "onnxruntime", "tensorrt"])
def test_a_gpu_is_timed_by_the_clock(
    gpu: type[FakeSession], tried: Trial, engine: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processor time would tell nothing of it."""
    monkeypatch.setattr("time.process_time", None)
    assert open_engine(MODEL, engine=engine, trial=tried).choice is not None


def test_rounding_that_turns_embeddings_is_refused(gpu: type[FakeSession], tried: Trial) -> None:
    def network(self: FakeSession, names: None, feeds: dict[str, Any]) -> list[Any]:
        rows = feeds["data"].reshape(len(feeds["data"]), -1)[:, :4]
        trt = self.options.get(TENSORRT)
        return [np.sign(rows) if trt and trt[1]["trt_fp16_enable"] else rows]

    gpu.run = network  # type: ignore[method-assign]
    engine = open_engine(MODEL, engine="tensorrt", trial=tried)
    assert engine.choice is not None
    assert engine.choice.label == "tensorrt float32"
    assert "cosine" in engine.choice.refused["tensorrt float16"]


@pytest.mark.parametrize(
    ("exact", "with_trial", "labels"),
    [
        (False, True, ["onnxruntime CUDA", "tensorrt float16", "tensorrt float32"]),
        (True, True, ["onnxruntime CUDA", "tensorrt float32"]),  # a detector is not rounded
        (False, False, []),  # TensorRT must know the sizes beforehand
    ],
)
def test_auto(
    gpu: type[FakeSession], tried: Trial, exact: bool, with_trial: bool, labels: list[str]
) -> None:
    engine = open_engine(MODEL, exact=exact, trial=tried if with_trial else None)
    assert engine.provider in (CUDA, TENSORRT)
    assert (engine.choice is not None) == with_trial
    if engine.choice is not None:
        assert list(engine.choice.ms) == labels
    if not with_trial:
        assert [list(session.options) for session in gpu.opened] == [[CUDA, CPU]]


@pytest.mark.parametrize(
    ("active", "arguments", "said"),
    [
        ((CPU,), {"accelerator": "cuda"}, "CUDA is not usable"),
        ((CPU, CUDA), {"engine": "tensorrt"}, "Tensorrt is not usable"),
        ((CPU, CUDA, TENSORRT), {"engine": "tensorrt", "accelerator": "cpu"}, "needs a GPU"),
        ((CPU, CUDA), {"engine": "openvino", "accelerator": "cuda"}, "openvino runs on the CPU"),
    ],
)
def test_what_does_not_work_is_refused(
    gpu: type[FakeSession],
    tried: Trial,
    active: tuple[str, ...],
    arguments: dict[str, Any],
    said: str,
) -> None:
    gpu.active = active
    with pytest.raises(ConfigError, match=said):
        open_engine(MODEL, trial=tried, **arguments)


def test_auto_goes_on_with_the_cpu(
    gpu: type[FakeSession], tried: Trial, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.active = (CPU,)
    engine = open_engine(MODEL, engine="onnxruntime", trial=tried)
    assert engine.provider == CPU
    assert "going on with the CPU" in caplog.text


def test_tensorrt_without_its_library(
    gpu: type[FakeSession], tried: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facegraph.models.engines.onnxruntime._loads", lambda _: False)
    assert not tensorrt_available()
    engine = open_engine(MODEL, trial=tried)
    assert engine.choice is not None
    assert list(engine.choice.ms) == ["onnxruntime CUDA"]
    with pytest.raises(ConfigError, match="needs TensorRT 10"):
        open_engine(MODEL, engine="tensorrt", trial=tried)


def test_a_cpu_build_has_no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    assert not tensorrt_available()
    with pytest.raises(ConfigError, match="onnxruntime-gpu"):
        open_engine(MODEL, engine="tensorrt")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "openvino", "accelerator": "cuda"}, "engine: .*openvino runs on the CPU"),
        ({"engine": "tensorrt", "accelerator": "cpu"}, "engine: .*tensorrt runs on a GPU"),
        ({"engine": "directml"}, "engine: Input should be"),
    ],
)
def test_settings_that_contradict(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings_from(given, {})


@pytest.mark.parametrize("accelerator", ["auto", "cuda"])
def test_tensorrt_is_a_setting(accelerator: str) -> None:
    settings = settings_from({"engine": "tensorrt", "accelerator": accelerator}, {})
    assert settings.engine == "tensorrt"
    assert Settings(data_dir=Path("/data")).engines_path == Path("/data/engines")
