"""Choosing an engine by measuring, and remembering it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from facegraph.errors import ConfigError
from facegraph.models import engines
from facegraph.models.engines import described, open_engine
from facegraph.models.engines.base import Candidate, Choice, Engine, largest_first
from facegraph.models.engines.candidates import REFERENCE
from facegraph.models.engines.memory import MAX_FILES, Memory, circumstances
from facegraph.models.engines.trial import choose
from facegraph.types import FloatArray
from tests.unit.fake_engines import FakeClock, FakeEngine, Network, candidate, trial

pytestmark = pytest.mark.unit


def same(batch: FloatArray) -> FloatArray:
    return batch


def off_by(part: float) -> Network:
    """Turns each row by ``part`` of its length."""

    def network(batch: FloatArray) -> FloatArray:
        return np.asarray(batch + part * batch[:, [1, 2, 0]], np.float32)

    return network


def broken(batch: FloatArray) -> FloatArray:
    return np.full_like(batch, np.nan)


@pytest.mark.parametrize(
    ("networks", "ms", "exact", "chosen", "refused"),
    [
        ((same, same), (5, 5), False, "a", ()),  # the first keeps its place
        ((same, same), (5, 4.6), False, "a", ()),  # 8 % is not clear
        ((same, same), (5, 4.4), False, "b", ()),
        ((same, same), (4, 9), False, "a", ()),  # a slow one is not chosen
        ((off_by(0.01), same), (1, 5), False, "a", ()),  # rounding of an embedder
        ((off_by(0.01), same), (1, 5), True, "b", ("a",)),  # but not of a detector
        ((off_by(0.2), same), (1, 5), False, "b", ("a",)),  # a wrong one is refused
        ((broken, same), (1, 5), False, "b", ("a",)),
        ((lambda batch: batch[:, :2], same), (1, 5), False, "b", ("a",)),  # another shape
        ((None, same), (1, 5), False, "b", ("a",)),  # one that does not open
        ((off_by(0.2), broken), (1, 1), False, REFERENCE, ("a", "b")),
    ],
)
def test_choice(
    networks: tuple[Network | None, ...],
    ms: tuple[float, ...],
    exact: bool,
    chosen: str,
    refused: tuple[str, ...],
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    plain = FakeEngine(clock, 8, same)
    found = [
        candidate(label, network and FakeEngine(clock, took, network))
        for label, network, took in zip("ab", networks, ms, strict=True)
    ]
    engine, choice = choose(
        [*found, candidate(REFERENCE, plain)], plain, trial(tmp_path), exact=exact, clock=clock
    )
    assert choice.label == chosen
    assert (engine is plain) == (chosen == REFERENCE)
    assert tuple(choice.refused) == refused
    assert choice.ms[REFERENCE] == pytest.approx(8)
    assert choice.ms == pytest.approx(
        {label: took for label, took in zip("ab", ms, strict=True) if label not in refused}
        | {REFERENCE: 8}
    )


def test_nothing_agrees(tmp_path: Path) -> None:
    clock = FakeClock()
    wrong = candidate("openvino float32", FakeEngine(clock, 1, off_by(0.5)))
    with pytest.raises(ConfigError, match="no engine may run the model: openvino float32: a cos"):
        choose([wrong], FakeEngine(clock, 1, same), trial(tmp_path), exact=False, clock=clock)


def by_batch(batch: FloatArray) -> FloatArray:
    """A row depends on how many run with it."""
    return off_by(0.02 if len(batch) > 4 else 0.0)(batch)


@pytest.mark.parametrize(
    ("ms", "row_ms", "network", "fixed", "batch"),
    [
        (0, 4, same, None, 1),  # nothing is gained
        (0.4, 4, same, None, 1),  # 9 % is too little
        (2, 4, same, None, 16),
        (2, 4, by_batch, None, 4),  # 16 is cheaper, and changes the rows
        (2, 4, same, 1, 1),  # the network takes one row
    ],
)
def test_batch(
    ms: float, row_ms: float, network: Network, fixed: int | None, batch: int, tmp_path: Path
) -> None:
    clock = FakeClock()
    engine = FakeEngine(clock, ms, network, row_ms=row_ms, batch=fixed)
    tried = trial(tmp_path, (1, 4, 16))
    _, choice = choose([candidate("a", engine)], engine, tried, exact=False, clock=clock)
    assert choice.batch == batch


@pytest.mark.parametrize(
    ("n", "sizes", "runs"),
    [
        (0, [1], []),
        (3, [1], [1, 1, 1]),
        (6, [1, 4], [4, 1, 1]),
        (37, [1, 4, 16], [16, 16, 4, 1]),
        (16, [1, 4, 16], [16]),
    ],
)
def test_sizes_of_runs(n: int, sizes: list[int], runs: list[int]) -> None:
    assert largest_first(n, sizes) == runs


class Machine:
    """One with two fake engines; ``opened`` tells which were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.trial = trial(folder)
        self.clock = FakeClock()
        self.ms = {"fast": 2.0, REFERENCE: 8.0}
        self.networks: dict[str, Network | None] = dict.fromkeys(self.ms, same)
        self.opened: list[str] = []
        found = [self.candidate(label) for label in self.ms]
        monkeypatch.setattr(engines, "on_cpu", lambda _: found)
        monkeypatch.setattr(engines, "reference", lambda _: self.candidate(REFERENCE))
        monkeypatch.setattr("time.process_time", self.clock)

    def candidate(self, label: str) -> Candidate:
        def opened() -> Engine:
            self.opened.append(label)
            network = self.networks[label]
            engine = network and FakeEngine(self.clock, self.ms[label], network)
            return candidate(label, engine).open()

        return Candidate(label, opened)

    def open(self, model: bytes = b"a model") -> Engine:
        self.opened.clear()
        return open_engine(model, accelerator="cpu", trial=self.trial)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path / "engines")


def test_a_choice_is_told_and_remembered(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    first = machine.open()
    assert (first.choice, machine.opened) == (
        Choice("fast", 1, {"fast": 2.0, REFERENCE: 8.0}, {}),
        [REFERENCE, "fast"],
    )
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert said.message == (
        f"a model runs on fast, 1 at a time (fast 2.00 ms; {REFERENCE} 8.00 ms)"
    )
    assert described(first) == {
        "engine": "fake",
        "provider": "fake",
        "measured": {
            "chosen": "fast",
            "batch": 1,
            "ms": {"fast": 2.0, REFERENCE: 8.0},
            "refused": {},
        },
    }
    machine.ms["fast"] = 99.0  # what is remembered is not measured again
    again = machine.open()
    assert (again.choice, machine.opened) == (first.choice, ["fast"])


def test_another_model_is_measured_for_itself(machine: Machine) -> None:
    machine.open()
    machine.ms["fast"] = 99.0
    assert machine.open(b"another").choice.label == REFERENCE  # type: ignore[union-attr]


def test_a_wrong_engine_is_told(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.networks["fast"] = off_by(0.3)
    assert machine.open().choice.label == REFERENCE  # type: ignore[union-attr]
    assert "fast refused: a cosine of 0.9" in caplog.text


def test_what_is_remembered_and_does_not_open_for_now(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """What is in use is told and pinned; what is remembered stays for those to come."""
    machine.open()
    (file,) = machine.trial.folder.glob("*.json")
    told = json.loads(file.read_text()) | {"batch": 4}
    file.write_text(json.dumps(told))
    machine.networks["fast"] = None
    engine = machine.open()
    assert (engine.choice, engine.best_batch) == (
        Choice(REFERENCE, 1, {"fast": 2.0, REFERENCE: 8.0}, {}),
        1,
    )
    assert machine.opened == ["fast", REFERENCE]
    assert f"{REFERENCE} instead of fast: it is broken" in caplog.text
    assert json.loads(file.read_text()) == told
    machine.networks["fast"] = same
    again = machine.open()
    assert (described(again)["measured"]["chosen"], again.best_batch) == ("fast", 4)
    assert machine.opened == ["fast"]


def test_where_one_that_was_refused_is_left_nothing_opens(machine: Machine) -> None:
    machine.networks[REFERENCE], machine.networks["fast"] = same, off_by(0.3)
    machine.open()
    machine.networks[REFERENCE], machine.networks["fast"] = None, same
    with pytest.raises(ConfigError, match="it is broken"):
        machine.open()
    assert machine.opened == [REFERENCE]


@pytest.mark.parametrize(
    ("opens", "label", "batch"),
    [
        (True, "fast", 4),  # theirs holds for both
        (False, REFERENCE, 1),  # what was measured here goes on, under its own name
    ],
)
def test_another_process_was_quicker(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, opens: bool, label: str, batch: int
) -> None:
    theirs = Choice("fast", 4, {"fast": 1.0}, {})
    machine.networks["fast"] = same if opens else None
    machine.ms["fast"] = 99.0
    monkeypatch.setattr(Memory, "keep", lambda self, choice: theirs)
    engine = machine.open()
    assert engine.choice is not None
    assert (engine.choice.label, engine.choice.batch, engine.best_batch) == (label, batch, batch)
    run = machine.ms[label] / 1000
    before = machine.clock.now
    engine.run(np.zeros((1, 3), np.float32))
    assert machine.clock.now - before == pytest.approx(run), "it is the engine that it says"


DAMAGED = [
    b"",
    b"not json",
    b"[]",
    b'{"label": "fast"}',
    json.dumps({"label": "fast", "batch": 0, "ms": {}, "refused": {}}).encode(),
    json.dumps({"label": "fast", "batch": 1, "ms": {"fast": "?"}, "refused": {}}).encode(),
    json.dumps({"label": "nobody's", "batch": 1, "ms": {}, "refused": {}}).encode(),
    b"[" * 100_000,
    b"\xff\xfe",
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_measured_anew(machine: Machine, content: bytes) -> None:
    machine.open()
    (file,) = machine.trial.folder.glob("*.json")
    file.write_bytes(content)
    assert machine.open().choice.label == "fast"  # type: ignore[union-attr]
    assert machine.opened == [REFERENCE, "fast"]
    machine.open()
    assert machine.opened == ["fast"]


def test_the_first_of_two_processes_decides(tmp_path: Path) -> None:
    mine, theirs = Choice("a", 1, {"a": 1.0}, {}), Choice("b", 4, {"b": 1.0}, {"a": "wrong"})
    told = {"model": "one"}
    assert Memory(tmp_path, told, "ab").keep(theirs) == theirs
    assert Memory(tmp_path, told, "ab").keep(mine) == theirs
    assert Memory(tmp_path, told, "ab").read() == theirs
    assert Memory(tmp_path, told | {"threads": 2}, "ab").read() is None
    assert [file.suffix for file in tmp_path.iterdir()] == [".json"]


def test_memory_is_bounded(tmp_path: Path) -> None:
    choice = Choice("a", 1, {}, {})
    for at in range(MAX_FILES + 5):
        Memory(tmp_path, {"model": at}, "a").keep(choice)
    assert len(list(tmp_path.iterdir())) == MAX_FILES
    assert Memory(tmp_path, {"model": MAX_FILES + 4}, "a").read() == choice


def test_no_place_to_remember(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    choice = Choice("a", 1, {}, {})
    memory = Memory(tmp_path / "file" / "engines", {}, "a")
    assert memory.keep(choice) == choice
    assert "not remembered" in caplog.text


def test_circumstances(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"a model")
    told = circumstances(tmp_path / "model.onnx", threads=2)
    assert told == circumstances(b"a model", threads=2)
    assert told != circumstances(b"another", threads=2)
    assert told["engines"]["onnxruntime"]
    assert told["processor"]
