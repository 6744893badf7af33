"""An RTSP server of one H.264 stream over TCP, on this machine's own address, for tests."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import BinaryIO

import av
from aiortc.codecs.h264 import H264Encoder

from facegraph.types import ByteArray

CLOCK = 90_000
"""Ticks per second of RTP's time stamps for video."""

SDP = f"""v=0
o=- 0 0 IN IP4 127.0.0.1
s=test
c=IN IP4 127.0.0.1
t=0 0
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/{CLOCK}
a=fmtp:96 packetization-mode=1
a=control:track
""".replace("\n", "\r\n")


@contextlib.contextmanager
def rtsp_server(frames: Sequence[ByteArray], fps: int) -> Iterator[str]:
    """The address at which one client is sent the frames, once it plays, and then the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    packets = _packets(frames, fps)
    thread = threading.Thread(target=_serve, args=(listener, packets), daemon=True)
    thread.start()
    try:
        yield f"rtsp://127.0.0.1:{listener.getsockname()[1]}/live"
    finally:
        listener.close()
        thread.join(10)


def _packets(frames: Sequence[ByteArray], fps: int) -> list[bytes]:
    """RTP packets in RTSP's interleaved framing."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = frames[0].shape[:2]
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, fps)
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "15"}
    encoded = []
    for index, rgb in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame.pts = index
        encoded += encoder.encode(frame)
    encoded += encoder.encode(None)
    packets: list[bytes] = []
    packer = H264Encoder()
    for index, packet in enumerate(encoded):
        payloads, _ = packer.pack(packet)
        for at, payload in enumerate(payloads):
            last = 0x80 if at == len(payloads) - 1 else 0
            stamp = index * CLOCK // fps
            header = struct.pack("!BBHII", 0x80, last | 96, len(packets) & 0xFFFF, stamp, 7)
            packets.append(struct.pack("!cBH", b"$", 0, 12 + len(payload)) + header + payload)
    return packets


def _serve(listener: socket.socket, packets: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # the client may leave, the test may end, at any time
        client, _ = listener.accept()
        with client, client.makefile("rb") as requests:
            while request := _request(requests):
                method, sequence = request
                body = SDP if method == "DESCRIBE" else ""
                client.sendall(_answer(method, sequence, body).encode())
                if method == "PLAY":
                    for packet in packets:
                        client.sendall(packet)
                    return


def _request(lines: BinaryIO) -> tuple[str, str] | None:
    first = lines.readline().decode()
    headers = {}
    while line := lines.readline().decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return (first.split()[0], headers["cseq"]) if first.strip() else None


def _answer(method: str, sequence: str, body: str) -> str:
    head = ["RTSP/1.0 200 OK", f"CSeq: {sequence}"]
    if method == "OPTIONS":
        head.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
    if method == "SETUP":
        head += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1"]
    if method != "OPTIONS":
        head.append("Session: 1")
    if body:
        head += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", body])
