"""Tells whoever asked for a recognizer that it is built, or failed: a signed POST.

It is signed as Standard Webhooks says (https://www.standardwebhooks.com). A notification may come
twice, with the same id: a worker that is lost after the POST leaves it to another.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp
from yarl import URL

from facegraph import __version__, outside, tasks
from facegraph.config import JobsTuning
from facegraph.errors import FacegraphError, InvalidRequest, StoreUnavailable
from facegraph.store.records import DueNotification, Recognizer

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
LEASE_S = 60.0
"""Longer than a delivery takes, and writing down how it went."""
FIRST_S = 5.0
MOST_S = 3600.0
AT_ONCE = 4

PREFIX = "whsec_"
KEY_BYTES = (24, 64)

_GONE = 410


class Notifications(Protocol):
    """Where notifications wait; ``store.recognizers``."""

    async def take_notification(self, lease_s: float) -> DueNotification | None: ...
    async def notified(self, recognizer_id: str) -> object: ...
    async def not_notified(
        self, recognizer_id: str, problem: str, again_after_s: float | None
    ) -> object: ...


class NotTaken(Exception):
    """The receiver did not take a notification. The sentence is shown: it holds no secret."""


class NeverTaken(NotTaken):
    """Nor will it."""


def new_secret() -> str:
    """A secret for a client that brought none."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(text: str) -> None:
    """InvalidRequest unless it is `whsec_` and 24 to 64 bytes in base64."""
    _key(text)


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """What stands in `webhook-signature`: HMAC-SHA256 over id, time and body."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.digest(_key(secret), signed, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def body_of(recognizer: Recognizer) -> bytes:
    """The same at each attempt: it tells when the build ended, not when it is sent."""
    ended_at = recognizer.finished_at
    assert ended_at is not None  # or nothing is due
    message = {
        "type": f"recognizer.{recognizer.state}",
        "timestamp": ended_at.astimezone(dt.UTC).isoformat(),
        "data": {"id": recognizer.id, "state": recognizer.state, "name": recognizer.name},
    }
    return json.dumps(message, separators=(",", ":")).encode()


def pause_s(waiting_s: float, give_up_s: float) -> float | None:
    """Until the next attempt: as long as it waits already, within bounds; None: no more."""
    pause = min(max(waiting_s, FIRST_S), MOST_S)
    return pause if waiting_s + pause <= give_up_s else None


class Notifier:
    """Delivers what is due, at most ``AT_ONCE`` side by side.

    private: addresses that are not public are notified, too
    clock: seconds since 1970
    """

    def __init__(
        self,
        notifications: Notifications,
        tuning: Callable[[], JobsTuning],
        private: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._notifications = notifications
        self._tuning = tuning
        self._private = private
        self._clock = clock
        self._deliveries: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._take_forever(), name="notifications")

    async def close(self) -> None:
        """What is being delivered is due again when its lease runs out."""
        if self._loop is not None:
            await tasks.end(self._loop)  # first, or it takes more
        await tasks.end(*self._deliveries)

    def check(self) -> None:
        """Raises when nobody is notified any more."""
        if self._loop is not None and self._loop.done():
            raise RuntimeError("the notifier has stopped taking notifications")

    def describe(self) -> dict[str, Any]:
        return {"delivering": len(self._deliveries)}

    async def step(self) -> bool:
        """Delivers one notification; whether one was due. StoreUnavailable."""
        due = await self._notifications.take_notification(LEASE_S)
        if due is None:
            return False
        await self._deliver(due)
        return True

    async def _take_forever(self) -> None:
        while True:
            try:
                if len(self._deliveries) < AT_ONCE and await self._take():
                    continue
            except StoreUnavailable as error:
                log.warning("notifications wait for the database: %s", error)
            except FacegraphError:
                log.exception("no notification could be taken")
            await asyncio.sleep(self._tuning().poll_interval_s)

    async def _take(self) -> bool:
        due = await self._notifications.take_notification(LEASE_S)
        if due is None:
            return False
        task = asyncio.create_task(self._deliver(due), name=f"notification {due.recognizer_id}")
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)
        return True

    async def _deliver(self, due: DueNotification) -> None:
        try:
            await self._tell(due)
        except FacegraphError as error:  # the store's: it is due again when its lease runs out
            log.warning("what became of notification %s was not kept: %s", due.recognizer_id, error)

    async def _tell(self, due: DueNotification) -> None:
        """Notifies and writes down how that went; StoreUnavailable."""
        try:
            await self._post(due)
        except NotTaken as error:
            again_after_s = None
            if not isinstance(error, NeverTaken):
                again_after_s = pause_s(due.waiting_s, self._tuning().callback_give_up_s)
            await self._notifications.not_notified(due.recognizer_id, str(error), again_after_s)
            if again_after_s is None:
                _log_given_up(due, error)
        else:
            await self._notifications.notified(due.recognizer_id)

    async def _post(self, due: DueNotification) -> None:
        """NotTaken, NeverTaken. Errors' own words stay here: they may quote the whole URL."""
        try:
            status = await self._status(due)
        except TimeoutError:
            raise NotTaken(f"there was no answer within {TIMEOUT_S:g} s") from None
        except InvalidRequest as error:
            raise NotTaken(error.detail) from None
        except aiohttp.ClientConnectorDNSError:
            raise NotTaken("its host is not known") from None
        except aiohttp.ClientSSLError:
            raise NotTaken("there is no secure connection to it") from None
        except aiohttp.ClientConnectorError:
            raise NotTaken("there is no connection to it") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotTaken(f"the exchange broke off ({type(error).__name__})") from None
        except Exception:
            log.exception("notification %s could not be sent", due.recognizer_id)
            raise NotTaken("something went wrong here; the log has the recognizer's id") from None
        if not 200 <= status < 300:
            raise (NeverTaken if status == _GONE else NotTaken)(f"it answered {status}")

    async def _status(self, due: DueNotification) -> int:
        """What the receiver answers; nothing of the answer's body is read."""
        body, timestamp = body_of(due.recognizer), int(self._clock())
        message_id = f"msg_{due.recognizer_id}"
        headers = {
            "content-type": "application/json",
            "user-agent": f"facegraph/{__version__}",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(due.secret, message_id, timestamp, body),
        }
        async with (
            aiohttp.ClientSession(
                connector=outside.connector(self._private, "callback url"),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                auto_decompress=False,
            ) as session,
            session.post(due.url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            return response.status


def _key(secret: str) -> bytes:
    least, most = KEY_BYTES
    text = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(text, validate=True) if len(text) <= 2 * most else b""
    except ValueError:
        key = b""
    if text == secret or not least <= len(key) <= most:
        raise InvalidRequest(
            f"a callback secret is {PREFIX!r} and then {least} to {most} bytes in base64"
        )
    return key


def _log_given_up(due: DueNotification, error: NotTaken) -> None:
    log.warning(
        "notification %s to %s was given up at attempt %d: %s",
        due.recognizer_id,
        URL(due.url).origin(),  # the rest may be a secret
        due.attempts,
        error,
    )
