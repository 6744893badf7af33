"""Live video over WebRTC: a peer sends a track, and what was seen in it comes back drawn over it.

Each peer has one connection and one task in this process, which live on after the offer was
answered. Only the newest frame is looked at; those that come meanwhile are dropped, so nothing
waits and the picture never lags behind by more than one look. No STUN or TURN server is asked:
the peer must be able to reach an address of this machine.

aiortc is an extra (``facegraph[streams]``) and imported where it is needed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from facegraph.errors import FacegraphError, InvalidRequest, Overloaded
from facegraph.offload import Offload
from facegraph.video.annotating import Annotator, Look

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack, RTCPeerConnection
    from aiortc.rtcrtptransceiver import RTCRtpTransceiver
    from av import VideoFrame

log = logging.getLogger(__name__)

MAX_STREAMS = 8
CONNECT_TIMEOUT_S = 15.0
MAX_DURATION_S = 3600.0

MAX_OFFER = 64 * 1024
MAX_SECTIONS = 8
MAX_CANDIDATES = 32
"""Of an offer: characters, media sections (each may open sockets), addresses to be tried."""


class StreamsMissing(FacegraphError):
    """The extra is not installed."""

    code, status, title = "streams_missing", 501, "Streams are not installed"


class Streams:
    """The streams of this process; at most ``most`` at a time."""

    def __init__(
        self,
        pixels: Offload,
        *,
        most: int = MAX_STREAMS,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        max_duration_s: float = MAX_DURATION_S,
    ) -> None:
        self._pixels = pixels
        self._most = most
        self._limits = (connect_timeout_s, max_duration_s)
        self._opening = 0
        self._streams: dict[asyncio.Task[None], _Stream] = {}

    @property
    def tasks(self) -> tuple[asyncio.Task[None], ...]:
        """One for each stream; it is done when nothing of the stream is left."""
        return tuple(self._streams)

    async def open(self, offer: str, look: Look) -> str:
        """The SDP that answers ``offer``; the stream then lives until its peer is gone.

        Raises InvalidRequest for an offer that cannot be answered, Overloaded, StreamsMissing.
        """
        _require_aiortc()
        if len(self._streams) + self._opening >= self._most:
            raise Overloaded(f"{self._most} streams are running")
        self._opening += 1
        try:
            stream = _Stream(Annotator(look, self._pixels))
            answer = await stream.answer(offer)
        finally:
            self._opening -= 1
        task = asyncio.create_task(stream.live(*self._limits))
        self._streams[task] = stream
        task.add_done_callback(self._ended)
        return answer

    async def close(self) -> None:
        """Ends every stream."""
        for stream in self._streams.values():
            stream.end()
        if tasks := self.tasks:
            await asyncio.wait(tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._streams[task]
        if not task.cancelled() and (error := task.exception()):
            log.error("a stream failed", exc_info=error)


class _Stream:
    """One peer's connection."""

    def __init__(self, annotate: Annotator) -> None:
        from aiortc import RTCConfiguration, RTCPeerConnection

        self._annotate = annotate
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._peer.on("connectionstatechange", self._changed)
        self._connected = asyncio.Event()
        self._over = asyncio.Event()
        self._newest: asyncio.Queue[VideoFrame | None] = asyncio.Queue(1)
        self._source: MediaStreamTrack | None = None

    async def answer(self, offer: str) -> str:
        """The SDP that answers; where there is none, the connection is closed."""
        try:
            return await self._negotiate(_bounded(offer))
        except BaseException as error:
            await self._close()
            if isinstance(error, FacegraphError | OSError) or not isinstance(error, Exception):
                raise
            said = f"the offer cannot be answered: {(str(error) or type(error).__name__)[:200]}"
            raise InvalidRequest(said) from error  # aiortc raises anything from KeyError on

    async def _negotiate(self, offer: str) -> str:
        from aiortc import RTCSessionDescription

        await self._peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        source, sink = _pick(self._peer, offer)
        self._source = source.receiver.track
        sink.sender.replaceTrack(_track(self._next))
        await self._peer.setLocalDescription()
        return str(self._peer.localDescription.sdp)

    async def live(self, connect_timeout_s: float, max_duration_s: float) -> None:
        """Until the peer is gone, did not come, or has stayed too long."""
        drain = asyncio.create_task(self._drain())
        try:
            try:
                async with asyncio.timeout(connect_timeout_s):
                    await self._connected.wait()
                async with asyncio.timeout(max_duration_s):
                    await self._over.wait()
            except TimeoutError:
                log.info("a stream is closed: its peer did not come or has stayed too long")
        finally:
            drain.cancel()
            await self._close()
        await asyncio.wait([drain])
        if not drain.cancelled():
            drain.result()

    def end(self) -> None:
        """Lets :meth:`live` come to its end."""
        self._over.set()
        self._connected.set()

    async def _close(self) -> None:
        """Goes on beside where this is cancelled: a half-closed connection keeps its sockets."""
        await asyncio.shield(self._peer.close())

    def _changed(self) -> None:
        state = self._peer.connectionState
        log.debug("a stream is %s", state)
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self.end()

    async def _drain(self) -> None:
        """Takes every frame as it comes and keeps the newest; aiortc's own queue has no bound."""
        from aiortc.mediastreams import MediaStreamError
        from av import VideoFrame

        assert self._source is not None
        try:
            while True:
                frame = await self._source.recv()
                if isinstance(frame, VideoFrame):
                    self._put(frame)
        except MediaStreamError:  # the peer stopped sending
            pass
        finally:
            self._put(None)
            self.end()

    def _put(self, frame: VideoFrame | None) -> None:
        if self._newest.full():
            self._newest.get_nowait()
        self._newest.put_nowait(frame)

    async def _next(self) -> VideoFrame:
        """The newest frame, annotated."""
        from aiortc.mediastreams import MediaStreamError

        frame = await self._newest.get()
        if frame is None:
            raise MediaStreamError
        return await self._annotate(frame)


def _require_aiortc() -> None:
    try:
        import aiortc  # noqa: F401
    except ImportError:
        raise StreamsMissing(
            "streams need the extra `streams`: pip install -e '.[streams]', then start again"
        ) from None


def _bounded(offer: str) -> str:
    """The offer with at most ``MAX_CANDIDATES`` addresses to try; InvalidRequest if too long.

    Names that only a multicast could resolve are left out, and so is the mark that no address
    will follow: a browser hides its addresses behind such names and is met when it comes.
    """
    if len(offer) > MAX_OFFER:
        raise InvalidRequest(f"an offer may have {MAX_OFFER} characters")
    lines = offer.splitlines()
    if sum(line.startswith("m=") for line in lines) > MAX_SECTIONS:
        raise InvalidRequest(f"an offer may have {MAX_SECTIONS} media sections")
    given = [line for line in lines if line.startswith("a=candidate:") and ".local " not in line]
    tried = set(given[:MAX_CANDIDATES])
    kept = [
        line
        for line in lines
        if line in tried or not line.startswith(("a=candidate:", "a=end-of-candidates"))
    ]
    return "".join(f"{line}\r\n" for line in kept)


def _pick(peer: RTCPeerConnection, offer: str) -> tuple[RTCRtpTransceiver, RTCRtpTransceiver]:
    """The one video track that is taken and the one that is sent; everything else is off.

    Nothing would take frames or sound out of other tracks, so they must not be decoded.
    """
    from aiortc.sdp import SessionDescription

    media = [m for m in SessionDescription.parse(offer).media if m.kind in ("audio", "video")]
    pairs = list(zip(media, peer.getTransceivers(), strict=True))
    for _, transceiver in pairs:
        transceiver.direction = "inactive"
    video = [(m.direction, t) for m, t in pairs if m.kind == "video"]
    sources = [t for direction, t in video if direction in ("sendrecv", "sendonly")]
    sinks = [t for direction, t in video if direction in ("sendrecv", "recvonly")]
    if not sources or not sinks:
        raise InvalidRequest("an offer must send a video track and receive one")
    source, sink = sources[0], sinks[0]
    source.direction, sink.direction = "recvonly", "sendonly"
    if source is sink:
        source.direction = "sendrecv"
    return source, sink


def _track(following: Callable[[], Awaitable[VideoFrame]]) -> MediaStreamTrack:
    """A video track of what ``following`` returns."""
    from aiortc import MediaStreamTrack

    class Annotated(MediaStreamTrack):
        kind = "video"

        async def recv(self) -> VideoFrame:
            return await following()

    return Annotated()
