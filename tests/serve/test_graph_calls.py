"""``ServeGraph``: every failure of a handle becomes an error of ours. No cluster is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import grpc
import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments import calls, graph, matcher
from deployments.arguments import matcher_name
from deployments.embedder import Embedder
from deployments.graph import Handles, ServeGraph
from deployments.matcher import Matcher
from facegraph.errors import (
    FacegraphError,
    ImageTooLarge,
    InvalidImage,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    RecognizerNotFound,
    ShardUnavailable,
    TimedOut,
    Unavailable,
)
from facegraph.graph import Query
from facegraph.types import (
    WHOLE,
    CaptionOptions,
    Detection,
    Faces,
    Match,
    Recognized,
    SearchResult,
    Segmentation,
    SegmentOptions,
    Shard,
)

pytestmark = pytest.mark.serve

LOST = grpc.aio.AioRpcError(
    grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata(), "replica stopped"
)

TOO_LARGE = grpc.aio.AioRpcError(
    grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), grpc.aio.Metadata(), "9 > 4 MiB"
)

DETECTION = Detection(4, 3, Faces.empty(), np.zeros((0, 112, 112, 3), np.uint8), 0)


class FakeHandle:
    """Answers each call with the next of ``outcomes``: raised when an exception, else returned."""

    deployment_name = "detector"

    def __init__(self, *outcomes: Any, replicas: Sequence[Any] = ()) -> None:
        self.outcomes = list(outcomes)
        self.replicas = list(replicas)
        self.calls: list[tuple[Any, ...]] = []

    def options(self, **_: Any) -> FakeHandle:
        return self

    def broadcast(self, *call: Any) -> FakeHandle:
        self.calls.append(call)
        return self

    async def results_async(self, **_: Any) -> list[Any]:
        return self.replicas

    async def remote(self, *args: Any) -> Any:
        self.calls.append(args)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return await outcome() if callable(outcome) else outcome


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PAUSE_S", 0.0)


def make(handle: FakeHandle, timeout_s: float = 30.0) -> ServeGraph:
    any_handle = cast(Any, handle)
    matchers = (any_handle,)
    return ServeGraph(
        Handles(any_handle, any_handle, matchers, any_handle, any_handle, any_handle),
        timeout_s,
        "contract",
    )


def sharded(*matchers: FakeHandle) -> ServeGraph:
    """With a matcher for each shard."""
    other, shards = cast(Any, FakeHandle()), cast(Any, matchers)
    return ServeGraph(Handles(other, other, shards, other, other, other), 30.0, "contract")


def task_error(cause: Exception) -> Exception:
    """``cause`` as it comes over a handle."""
    wrapped: Exception = RayTaskError("detect", "traceback", cause).as_instanceof_cause()
    return wrapped


async def test_the_result_is_passed_on_with_positional_arguments() -> None:
    handle = FakeHandle([DETECTION])
    assert await make(handle).detect(b"image", max_faces=3, crops=True) is DETECTION
    assert handle.calls == [([(b"image", 3, True, None, False)],)]


async def test_our_error_arrives_as_it_was_raised() -> None:
    sent = InvalidImage("not an image", ({"index": 0},))
    with pytest.raises(InvalidImage) as caught:
        await make(FakeHandle(task_error(sent))).detect(b"", max_faces=1, crops=False)
    assert type(caught.value) is InvalidImage
    assert caught.value.args == ("not an image", ({"index": 0},))


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (lambda: task_error(ValueError("a bug")), FacegraphError),
        (lambda: BackPressureError(10, 10), Overloaded),
        (lambda: DeploymentUnavailableError(cast(Any, "detector")), ModelUnavailable),
        (lambda: TOO_LARGE, ImageTooLarge),
    ],
)
async def test_a_failure_that_a_second_try_would_meet_again(
    outcome: Callable[[], Exception], expected: type[Exception]
) -> None:
    handle = FakeHandle(outcome())
    with pytest.raises(FacegraphError) as caught:
        await make(handle).detect(b"", max_faces=1, crops=False)
    assert type(caught.value) is expected
    assert len(handle.calls) == 1


@pytest.mark.parametrize(
    "lost", [ActorDiedError(), ActorUnavailableError("gone", None), LOST], ids=repr
)
async def test_a_lost_replica_is_tried_again(lost: Exception) -> None:
    handle = FakeHandle(lost, lost, [DETECTION])
    assert await make(handle).detect(b"", max_faces=1, crops=False) is DETECTION


async def test_a_call_that_loses_every_replica_is_given_up() -> None:
    handle = FakeHandle(*[ActorDiedError()] * 9)
    with pytest.raises(ModelUnavailable, match="being replaced"):
        await make(handle).detect(b"", max_faces=1, crops=False)
    assert len(handle.calls) == calls.ATTEMPTS


async def test_a_call_ends_with_its_time() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimedOut, match=r"detector did not answer within 0\.01 s"):
        await make(FakeHandle(never), timeout_s=0.01).detect(b"", max_faces=1, crops=False)


SEEN = Segmentation(
    4, 3, (), np.zeros(0, np.float32), np.zeros((0, 4), np.float32), (), "some-model"
)


async def test_the_segmenter_gets_the_model_that_was_chosen() -> None:
    handle = FakeHandle(SEEN, SEEN)
    options = SegmentOptions(3, 0.5)
    assert await make(handle).segment(b"image", options) is SEEN
    assert await make(handle).segment(b"image", options, "yolact_base") is SEEN
    assert handle.calls == [(b"image", options, None), (b"image", options, "yolact_base")]


class FakeMultiplexedHandle(FakeHandle):
    """``models``: the recognizer of each handle that was made for one."""

    def __init__(self, *outcomes: Any, replicas: Sequence[Any] = ()) -> None:
        super().__init__(*outcomes, replicas=replicas)
        self.models: list[str] = []

    def options(self, **options: Any) -> FakeHandle:
        self.models += [value for key, value in options.items() if key == "multiplexed_model_id"]
        return self


async def test_serve_is_told_which_recognizer_is_asked() -> None:
    told = (Recognized("unknown", 0.1, ()),)
    handle = FakeMultiplexedHandle(told, task_error(RecognizerNotFound("no such recognizer")))
    asked = make(handle)
    assert await asked.recognize("one", PROBES, 0.4, 0.02) is told
    with pytest.raises(RecognizerNotFound) as caught:
        await asked.recognize("gone", PROBES, 0.4, 0.02)
    assert type(caught.value) is RecognizerNotFound
    assert handle.models == ["one", "gone"]
    assert handle.calls == [("one", PROBES, 0.4, 0.02), ("gone", PROBES, 0.4, 0.02)]


async def test_what_cannot_be_forgotten_now_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    handle = FakeHandle(replicas=[None, ActorDiedError()])
    await make(handle).forget_recognizer("one")
    assert handle.calls == [("forget", "one")]
    assert caplog.text.count("recognizer one may stay in memory") == 1
    await make(FakeSilentHandle(TimeoutError())).forget_recognizer("two")
    assert "recognizer two may stay in memory: the recognizer did not answer" in caplog.text


async def test_without_a_replica_the_model_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "COLD_AFTER_S", 0.01)
    ended: list[bool] = []

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    handle = FakeHandle(never)
    with pytest.raises(ModelUnavailable, match="is starting; try again"):
        await make(handle).caption(b"", CaptionOptions())
    await asyncio.sleep(0)
    assert ended == [True]


async def test_a_slow_replica_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "COLD_AFTER_S", 0.01)

    async def slow() -> Segmentation:
        await asyncio.sleep(0.05)
        return SEEN

    handle = FakeHandle(slow, replicas=[{"replica": "a"}])
    assert await make(handle).segment(b"", SegmentOptions()) is SEEN


class FakeHungHandle(FakeHandle):
    """A deployment whose replicas do not answer."""

    async def results_async(self, **_: Any) -> list[Any]:
        raise TimeoutError


def described_handles(instead: FakeHandle, of: str, shards: int = 2) -> Handles:
    """Each deployment's one replica has its name; ``instead`` takes the place of one."""
    parts: dict[str, Any] = {
        name: FakeHandle(replicas=[{"replica": name}])
        for name in ("detector", "embedder", "segmenter", "captioner", "recognizer", "jobs")
    }
    matchers: dict[str, Any] = {
        matcher_name(shard): FakeHandle(replicas=[{"replica": matcher_name(shard)}])
        for shard in range(shards)
    }
    (matchers if of in matchers else parts)[of] = instead
    return Handles(matchers=tuple(matchers.values()), **parts)


@pytest.mark.parametrize(
    ("hung", "fails"),
    [
        ("detector", True),
        ("matcher", True),
        ("matcher-1", True),  # its subjects could not be found
        ("segmenter", False),
        ("captioner", False),
        ("recognizer", False),
        ("jobs", False),
    ],
)
async def test_vision_that_hangs_is_described_and_the_rest_is_ready(hung: str, fails: bool) -> None:
    serve_graph = ServeGraph(described_handles(FakeHungHandle(), hung), 30.0, "contract")
    if fails:
        with pytest.raises(TimedOut):
            await serve_graph.describe()
        return
    described = await serve_graph.describe()
    assert list(described) == [
        "detector",
        "embedder",
        "matcher",
        "matcher-1",
        "segmenter",
        "captioner",
        "recognizer",
        "jobs",
    ]
    assert described["matcher-1"] == [{"replica": "matcher-1"}]
    assert described[hung] == [{"loaded": [], "problem": f"the {hung} did not answer within 4 s"}]


async def test_a_shard_without_a_replica_is_not_ready() -> None:
    handles = described_handles(FakeHandle(replicas=[]), "matcher-1")
    with pytest.raises(ModelUnavailable, match="no replica of the matcher-1 is running"):
        await ServeGraph(handles, 30.0, "contract").describe()


PROBES = np.zeros((1, 2), np.float32)


def found(*subjects: str) -> SearchResult:
    return SearchResult(3, None, (tuple(Match(s, "x", 0.5, None, {}) for s in subjects),))


async def test_one_matcher_is_asked_as_the_whole() -> None:
    whole = found("a")
    handle = FakeHandle([whole])
    assert await make(handle).match("c", "contract", PROBES, Query(2)) is whole
    assert handle.calls == [([("c", "contract", PROBES, Query(2), WHOLE)],)]


async def test_every_shard_is_asked_as_itself_and_tried_again() -> None:
    lost = FakeHandle(ActorDiedError(), [found("b")])
    handles = [FakeHandle([found("c")]), lost, FakeHandle([found("a")])]
    result = await sharded(*handles).match("c", "contract", PROBES, Query(2))
    assert [match.subject_id for match in result.matches[0]] == ["a", "b"]
    assert (result.missing_shards, result.shards) == ((), 3)
    assert [handle.calls[-1][0][0][-1] for handle in handles] == [Shard(i, 3) for i in range(3)]
    assert len(lost.calls) == 2


async def test_a_shard_whose_replicas_are_lost() -> None:
    def lost() -> list[FakeHandle]:
        return [FakeHandle([found("a")]), FakeHandle(*[ActorDiedError()] * calls.ATTEMPTS)]

    with pytest.raises(ShardUnavailable, match=r"1 of 2 shards .*being replaced"):
        await sharded(*lost()).match("c", "contract", PROBES, Query(2))
    result = await sharded(*lost()).match("c", "contract", PROBES, Query(2, partial=True))
    assert (result.missing_shards, result.shards) == ((1,), 2)


async def test_searches_of_other_collections_and_large_pictures_wait_for_themselves_only() -> None:
    """One that is being loaded, or decoded, would hold up all that travel with it."""
    handle = FakeHandle([found("a")] * 3, [found("a")], [found("a")])
    ask = make(handle).match
    eventual = Query(2, "eventual")
    await asyncio.gather(
        ask("c", "contract", PROBES, Query(2)),
        ask("cold", "contract", PROBES, Query(2)),
        ask("c", "contract", PROBES, eventual),
        ask("c", "contract", PROBES, Query(2)),
        ask("c", "contract", PROBES, Query(3)),
    )
    sent = [
        [(name, query.consistency) for name, _, _, query, _ in requests]
        for (requests,) in handle.calls
    ]
    strong = ("c", "strong")
    assert sent == [[strong] * 3, [("cold", "strong")], [("c", "eventual")]]

    handle = FakeHandle([DETECTION], [DETECTION], [DETECTION, DETECTION])
    pictures = [b"small", bytes(graph.LARGE), b"small", b"small"]
    detect = make(handle).detect
    await asyncio.gather(*(detect(each, max_faces=1, crops=True) for each in pictures))
    assert [[len(image) for image, *_ in requests] for (requests,) in handle.calls] == [
        [5],
        [graph.LARGE],
        [5, 5],
    ]


async def test_an_embedder_is_taken_for_no_other_model() -> None:
    """While the face pack changes, callers and embedders of both run."""
    crops = np.zeros((1, 112, 112, 3), np.uint8)
    handle = FakeHandle([PROBES])
    assert await make(handle).embed(crops) is PROBES
    assert handle.calls == [([(crops, "contract")],)]

    async def embed(_: Any) -> Any:
        return PROBES

    replica: Any = SimpleNamespace(
        _contract_id="contract", _worker=SimpleNamespace(embed=embed), _embed=None
    )
    replica._embed = partial(Embedder._embed, replica)
    first, second = await Embedder.embed(replica, [(crops, "contract"), (crops, "another")])
    assert first is PROBES
    assert isinstance(second, ModelUnavailable)
    assert "the face pack is being changed" in str(second)


@pytest.mark.parametrize(
    ("own", "asked"),
    [
        (WHOLE, Shard(0, 2)),  # the first of two shards, asked by who knows of one matcher only
        (Shard(0, 2), WHOLE),
        (Shard(0, 3), Shard(0, 2)),
        (Shard(1, 3), Shard(2, 3)),
    ],
)
async def test_a_matcher_is_taken_for_no_other_shard(own: Shard, asked: Shard) -> None:
    """While the number of shards changes, callers and matchers of both numbers run."""
    replica: Any = SimpleNamespace(_shard=own)
    with pytest.raises(ShardUnavailable, match="the number of shards is being changed"):
        await Matcher._match(replica, "c", "contract", PROBES, Query(2), asked)


class FakeSilentHandle(FakeHandle):
    """Every broadcast ends with ``failure``; ``waits`` are the seconds it was given."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self.failure = failure
        self.waits: list[float] = []

    async def results_async(self, **options: Any) -> list[Any]:
        self.waits.append(options["timeout_s"])
        raise self.failure


async def test_galleries_of_every_replica_in_the_shards_order() -> None:
    handles = [
        FakeHandle(replicas=[{"replica": "b", "version": 3}, None, {"replica": "a", "version": 4}]),
        FakeHandle(replicas=[None]),  # not in memory there
        FakeHandle(replicas=[{"replica": "c", "version": 4}]),
    ]
    assert await sharded(*handles).galleries("people") == [
        {"shard": 0, "replica": "a", "version": 4},
        {"shard": 0, "replica": "b", "version": 3},
        {"shard": 2, "replica": "c", "version": 4},
    ]
    for index, handle in enumerate(handles):
        assert handle.calls == [("describe_gallery", "people", Shard(index, 3))]


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (FakeHandle(replicas=[ActorDiedError()]), "killed during the call"),
        (FakeHandle(replicas=[LOST]), "stopped during the call"),
        (FakeHandle(replicas=[task_error(AttributeError("a bug"))]), "of another release"),
        (FakeHandle(replicas=[]), "none is running"),
        (FakeSilentHandle(DeploymentUnavailableError(cast(Any, "matcher"))), "none could start"),
        (FakeSilentHandle(TimeoutError()), "it hangs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_matcher_that_does_not_tell_is_left_out(lost: FakeHandle, reason: str) -> None:
    whole = FakeHandle(replicas=[{"replica": "a"}])
    assert await sharded(lost, whole).galleries("c") == [{"shard": 1, "replica": "a"}], reason
    assert await make(lost).galleries("c") == [], reason
    if isinstance(lost, FakeSilentHandle):
        assert lost.waits == [graph.GALLERIES_TIMEOUT_S] * 2


async def test_a_replica_that_fails_leaves_the_others_in_and_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handle = FakeHandle(replicas=[task_error(ValueError("a bug")), {"replica": "a"}])
    assert await make(handle).galleries("c") == [{"shard": 0, "replica": "a"}]
    assert "the matcher could not tell of a gallery" in caplog.text


@pytest.mark.parametrize(
    ("asked", "held", "expected"),
    [
        (Shard(1, 2), {"version": 3}, {"replica": "r", "version": 3}),
        (Shard(1, 2), None, None),
        (Shard(1, 3), {"version": 3}, None),  # it refuses such searches too
        (WHOLE, {"version": 3}, None),
    ],
)
async def test_a_matcher_tells_of_the_galleries_of_its_own_shard(
    asked: Shard,
    held: dict[str, Any] | None,
    expected: dict[str, Any] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matcher, "replica_id", lambda: "r")
    library = SimpleNamespace(describe_gallery={"c": held}.get)
    replica: Any = SimpleNamespace(_shard=Shard(1, 2), _matcher=library)
    assert await Matcher.describe_gallery(replica, "c", asked) == expected


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        ([None, None], None),
        ([None, ActorDiedError()], None),  # what comes in its place is told by every request
        ([ActorDiedError()], Unavailable),
        ([], Unavailable),
        ([None, task_error(RuntimeError("CUDA error"))], FacegraphError),
        ([None, task_error(InvalidRequest("no such model"))], InvalidRequest),
    ],
)
async def test_a_switch_needs_every_replica(
    replicas: list[Any], expected: type[Exception] | None
) -> None:
    handle = FakeHandle(replicas=replicas)
    switch = make(handle).load_segmenter("yolact_base")
    if expected is None:
        await switch
    else:
        with pytest.raises(expected) as caught:
            await switch
        assert type(caught.value) is expected
    assert handle.calls == [("load", "yolact_base")]
