"""The engine seam, on tiny graphs."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from facegraph.errors import ConfigError, ModelMissing, ModelUnavailable
from facegraph.models.engines import EngineName, Trial, open_engine
from facegraph.models.engines.onnxruntime import cuda_available
from facegraph.models.engines.openvino import MAX_SHAPES, OpenVinoEngine
from facegraph.models.rewriting import rewrite
from facegraph.types import FloatArray
from tests.unit.graphs import embedder, quantised, scrfd

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")


def crops(n: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).uniform(0, 255, (n, 3, 112, 112)).astype(np.float32)


@pytest.mark.parametrize("name", ENGINES)
def test_both_engines_compute_the_same(name: EngineName) -> None:
    engine = open_engine(embedder(), engine=name, accelerator="cpu", exact=True)
    plain = open_engine(embedder(), engine="onnxruntime", accelerator="cpu")
    assert engine.name == name
    assert engine.input_shape == (None, 3, 112, 112)
    for n in (1, 3):
        (ours,) = engine.run(crops(n))
        assert ours.dtype == np.float32
        assert np.allclose(ours, plain.run(crops(n))[0], rtol=1e-4)


@pytest.mark.parametrize("name", ENGINES)
def test_outputs_keep_the_order_of_the_file(name: EngineName) -> None:
    engine = open_engine(scrfd(), engine=name, accelerator="cpu")
    outputs = engine.run(np.ones((1, 3, 64, 64), np.float32))
    assert [output.shape[1] for output in outputs] == [1, 1, 1, 4, 4, 4, 10, 10, 10]


@pytest.mark.parametrize("name", ENGINES)
def test_threads_do_not_mix_results(name: EngineName) -> None:
    engine = open_engine(embedder(), engine=name, accelerator="cpu", concurrency=2)
    inputs = [crops(1, seed) for seed in range(24)]
    wanted = [engine.run(one)[0] for one in inputs]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(4):
            for want, got in zip(wanted, pool.map(engine.run, inputs), strict=True):
                assert np.array_equal(want, got[0])


@pytest.mark.parametrize("name", ENGINES)
def test_results_belong_to_the_caller(name: EngineName) -> None:
    engine = open_engine(embedder(), engine=name, accelerator="cpu")
    first = engine.run(crops(1, 1))[0]
    kept = first.copy()
    engine.run(crops(1, 2))
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("name", ENGINES)
def test_a_run_that_fails(name: EngineName) -> None:
    engine = open_engine(embedder(), engine=name, accelerator="cpu")
    with pytest.raises(ModelUnavailable):
        engine.run(np.zeros((1, 5, 112, 112), np.float32))
    assert engine.run(crops(1))[0].shape == (1, 4)


def test_compiled_shapes_are_bounded() -> None:
    engine = OpenVinoEngine(embedder(), threads=1, concurrency=1)
    for n in range(1, MAX_SHAPES + 4):
        assert engine.run(crops(n))[0].shape == (n, 4)
    assert len(engine._compiled) == MAX_SHAPES


def test_auto_takes_openvino_for_embedders_and_float32_for_detectors() -> None:
    assert open_engine(embedder(), accelerator="cpu").name == "openvino"
    exact = open_engine(embedder(), accelerator="cpu", exact=True)
    assert (exact.name, exact.provider) == ("onnxruntime", "CPUExecutionProvider")
    asked = open_engine(embedder(), engine="openvino", accelerator="cpu", exact=True)
    assert (asked.name, asked.provider) == ("openvino", "CPU f32")


@pytest.mark.skipif(cuda_available(), reason="this onnxruntime has CUDA")
def test_cuda_is_refused_where_it_is_not() -> None:
    with pytest.raises(ConfigError, match="onnxruntime-gpu"):
        open_engine(embedder(), accelerator="cuda")


def test_a_trial_decides_for_exact_models_too(tmp_path: Path) -> None:
    """Which of the two is faster is the machine's affair; both compute in float32."""
    trial = Trial(lambda _: [crops(1), crops(1, 1)], tmp_path)
    engine = open_engine(embedder(), accelerator="cpu", exact=True, trial=trial)
    assert engine.choice is not None
    assert set(engine.choice.ms) == {"onnxruntime float32", "openvino float32"}
    assert engine.choice.label in engine.choice.ms
    assert engine.run(crops(1))[0].shape == (1, 4)


def test_contradiction() -> None:
    with pytest.raises(ConfigError, match="openvino runs on the CPU"):
        open_engine(embedder(), engine="openvino", accelerator="cuda")


@pytest.mark.parametrize("name", ["auto", *ENGINES])
@pytest.mark.parametrize("as_file", [True, False])
def test_no_model(name: EngineName, as_file: bool, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ConfigError):
        open_engine(path if as_file else path.read_bytes(), engine=name, accelerator="cpu")


def test_nothing_phones_home(tmp_path: Path) -> None:
    """Importing and running both engines opens no socket and leaves nothing at home."""
    (tmp_path / "model.onnx").write_bytes(embedder())
    script = """
import sys
from pathlib import Path
import numpy as np
seen = []
sys.addaudithook(lambda event, _: event.startswith("socket.") and seen.append(event))
from facegraph.models.engines import open_engine
for name in ("onnxruntime", "openvino"):
    open_engine(Path(sys.argv[1]), engine=name).run(np.zeros((1, 3, 112, 112), np.float32))
print(seen, [p.name for p in Path.home().iterdir() if p.name != "model.onnx"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model.onnx")],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[] []\n"


def test_rewriting_keeps_the_function() -> None:
    model, weights = quantised()
    x = np.random.default_rng(9).normal(size=(1, 6)).astype(np.float32)
    original = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    wanted = original.run(None, {"x": x})[0]
    prepared = rewrite(model, ["fold-constants", "split-prelu", "free-batch"])
    session = onnxruntime.InferenceSession(prepared, providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("x", ["batch", 6])]
    assert np.allclose(session.run(None, {"x": x})[0], wanted, rtol=1e-5)
    linear = x @ weights
    assert np.allclose(wanted, np.where(linear > 0, linear, linear * [0.25, 0.5, 0.1, 0.9]), 1e-4)


def test_rewriting_is_deterministic_and_complete() -> None:
    model, _ = quantised()
    steps = ["fold-constants", "split-prelu", "free-batch"]
    assert rewrite(model, steps) == rewrite(model, steps)
    kinds = {node.op_type for node in onnx.load_from_string(rewrite(model, steps)).graph.node}
    assert kinds == {"MatMul", "Relu", "Mul", "Add"}


def test_rewriting_nonsense() -> None:
    with pytest.raises(ModelMissing, match="cannot be prepared"):
        rewrite(b"nonsense", ["fold-constants"])
