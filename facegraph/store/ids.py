"""Generated ids: UUIDv7 (RFC 9562), so that ids made later sort later."""

from __future__ import annotations

import secrets
import time


def new_id() -> str:
    """A UUIDv7 in its canonical form.

    48 bits of Unix milliseconds, then 12 bits of the millisecond's fraction (the RFC's method 3
    for order within a millisecond), then 62 random bits.
    """
    milliseconds, rest_ns = divmod(time.time_ns(), 1_000_000)
    fraction = rest_ns * 4096 // 1_000_000
    value = (
        (milliseconds & 0xFFFF_FFFF_FFFF) << 80
        | 0x7 << 76
        | fraction << 64
        | 0b10 << 62
        | secrets.randbits(62)
    )
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
