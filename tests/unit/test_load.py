"""What a worker tells of its load, told by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from facegraph.load import Load

pytestmark = pytest.mark.unit


class FakeClock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_an_idle_worker_waits_for_nothing(clock: FakeClock) -> None:
    load = Load(clock=clock)
    clock.now += 5
    assert load.read() == {"busy": 0.0, "wait_s": 0.0}
    assert load.read() == {"busy": 0.0, "wait_s": 0.0}  # in the same moment


def test_an_item_that_starts_at_once_does_not_wait(clock: FakeClock) -> None:
    load = Load(clock=clock)
    with load.item(), load.run(1):
        clock.now += 1
    clock.now += 3
    assert load.read() == {"busy": 0.25, "wait_s": 0.0}


def test_the_wait_is_that_of_the_items_begun(clock: FakeClock) -> None:
    """Three items arrive together and are run one after the other, 2 s each: 0, 2 and 4 s."""
    load = Load(clock=clock)
    items = [load.item() for _ in range(3)]
    for item in items:
        item.__enter__()
    for item in items:
        with load.run(1):
            clock.now += 2
        item.__exit__(None, None, None)
    assert load.read() == {"busy": 1.0, "wait_s": 2.0}


def test_a_batch_waits_for_the_one_before_it(clock: FakeClock) -> None:
    load = Load(clock=clock)
    with load.item(4), load.run(4):
        clock.now += 1
        with load.item(2):
            clock.now += 1
    assert load.read() == {"busy": 1.0, "wait_s": 0.5}  # 2 items a second, by 4 begun


def test_what_never_begins_waits_all_the_same(clock: FakeClock) -> None:
    """A worker that hangs begins nothing, and its queue must not look empty."""
    load = Load(clock=clock)
    with load.item(3), load.item(1), load.run(1):
        clock.now += 1
        load.read()
        clock.now += 2
        assert load.read() == {"busy": 1.0, "wait_s": 6.0}


def test_runs_beyond_the_workers_wait_in_part(clock: FakeClock) -> None:
    load = Load(workers=2, clock=clock)
    with load.item(4), load.run(1), load.run(1), load.run(1), load.run(1):
        clock.now += 1
    assert load.read() == {"busy": 1.0, "wait_s": 0.5}


@pytest.mark.parametrize("workers", [2, lambda: 2])
def test_half_of_the_workers(workers: int | Callable[[], int], clock: FakeClock) -> None:
    load = Load(workers=workers, clock=clock)
    with load.item(), load.run(1):
        clock.now += 1
    assert load.read() == {"busy": 0.5, "wait_s": 0.0}


def test_a_reading_forgets_what_was_before(clock: FakeClock) -> None:
    load = Load(clock=clock)
    with load.item(2), load.run(1):
        clock.now += 1
    assert load.read() == {"busy": 1.0, "wait_s": 1.0}
    clock.now += 1
    assert load.read() == {"busy": 0.0, "wait_s": 0.0}


def test_an_error_leaves_nothing_behind(clock: FakeClock) -> None:
    load = Load(clock=clock)
    with pytest.raises(KeyError), load.item(), load.run(1):
        raise KeyError
    clock.now += 1
    assert load.read() == {"busy": 0.0, "wait_s": 0.0}
