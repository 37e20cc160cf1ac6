"""What `tusserver upload` and `download` share: a session with timeouts, when to retry, what a refusal says."""

from __future__ import annotations

import argparse
import os
import random
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from tusserver import __version__
from tusserver.cli.flags import UsageError
from tusserver.text import printable

TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and without a byte from the server."""
_FOR_GOOD = {501, 505, 507}
"""Errors of servers that do not pass by themselves."""
_LONGEST_WAIT = 30.0
_LONGEST_ORDER = 600.0
"""Most seconds of Retry-After that are waited."""


class Failed(Exception):
    """It cannot be done, in one line; another try would not help."""


class Retryable(Exception):
    """This attempt failed; another one may succeed. `after`: seconds that the server asks to wait."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Gone(Exception):
    """The server no longer knows the upload."""


class Stopped(Exception):
    """The user ended the command."""


class _Bearer(AuthBase):
    """The token, for the server it is meant for only. It takes precedence over ~/.netrc, which a header would not."""

    def __init__(self, token: str, origin: tuple[str, str]) -> None:
        self._token = token
        self._origin = origin

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if urlsplit(request.url or "")[:2] == self._origin:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def checked_url(text: str) -> str:
    """A URL as it is used.

    Raises:
        UsageError
    """
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"{printable(text)} is not an http:// or https:// address; the address of the server comes last"
        )
    if parts.username is not None:
        raise UsageError("a password in the address would be seen by others; use --token-file or TUSSERVER_TOKEN")
    return text


def checked_headers(options: argparse.Namespace) -> dict[str, str]:
    """The headers of `--header`.

    Raises:
        UsageError
    """
    headers = {}
    for line in options.headers:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or any(character in line for character in "\r\n"):
            raise UsageError(f"--header {printable(line)!r} is not of the form 'Name: value'")
        headers[name.strip()] = value.strip()
    return headers


def open_session(options: argparse.Namespace, url: str) -> requests.Session:
    """Return a session that sends what the options of a connection (`transfers`) say: headers, token, time limits.

    Raises:
        UsageError
    """
    session = requests.Session()
    session.headers.update({"User-Agent": f"tusserver/{__version__}", **checked_headers(options)})
    try:
        token = options.token_file.read_text() if options.token_file else os.environ.get("TUSSERVER_TOKEN", "")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {options.token_file}: {_reason(error)}") from None
    if token.strip():
        scheme, netloc = urlsplit(url)[:2]
        session.auth = _Bearer(token.strip(), (scheme, netloc))
    return session


def ask(session: requests.Session, method: str, url: str, **more: Any) -> requests.Response:
    """Send a request; an answer of any status is returned, but no redirect is followed.

    Raises:
        Retryable: there was no answer.
    """
    try:
        return session.request(method, url, timeout=TIMEOUT, allow_redirects=False, **more)
    except requests.exceptions.InvalidHeader as error:
        raise Failed(f"a header cannot be sent: {error}") from None
    except (requests.RequestException, OSError) as error:
        raise Retryable(_reason(error)) from None


def refuse(response: requests.Response) -> Retryable | Failed:
    """Return what a refusal means, with the server's message."""
    status = response.status_code
    if 300 <= status < 400:
        return Failed(f"the server points to {printable(response.headers.get('Location', '?'))}; use that address")
    words = " ".join(response.content[:2000].decode("utf-8", "replace").split())[:300]
    if not words or "html" in response.headers.get("Content-Type", ""):
        words = response.reason or ""
    text = printable(f"{status} {words}".rstrip())
    if status in (409, 423, 425, 429, 460, 408) or (status >= 500 and status not in _FOR_GOOD):
        return Retryable(text, _retry_after(response.headers.get("Retry-After")))
    return Failed(f"the server refuses: {text}")


class Backoff:
    """Counts attempts without progress, and waits longer before each."""

    def __init__(self, most: int, stop: threading.Event, waiting: Callable[[str, float], None]) -> None:
        self._most = most
        self._stop = stop
        self._waiting = waiting
        self._count = 0

    def progress(self) -> None:
        """Count from zero again."""
        self._count = 0

    def wait(self, failure: Retryable) -> None:
        """Wait before the next try.

        Raises:
            Failed: that was the last one.
            Stopped
        """
        self._count += 1
        if self._stop.is_set():
            raise Stopped
        if self._count > self._most:
            tries = f"{self._count} tries" if self._count > 1 else "one try"
            raise Failed(f"gave up after {tries}: {failure}")
        # Jitter: clients that lost their server together should not come back together.
        seconds = min(0.5 * 2 ** (self._count - 1), _LONGEST_WAIT) * random.uniform(0.75, 1.25)
        if failure.after is not None:
            seconds = max(seconds if self._count > 1 else 0.0, failure.after)
        self._waiting(str(failure), seconds)
        if self._stop.wait(seconds):
            raise Stopped


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value) if value.isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
    return min(max(seconds, 0.0), _LONGEST_ORDER)


def _reason(error: BaseException) -> str:
    """Return the innermost cause in few words: requests and urllib3 wrap theirs several times."""
    seen = error
    while True:
        inner = getattr(seen, "reason", None) or next((arg for arg in seen.args if isinstance(arg, Exception)), None)
        if not isinstance(inner, BaseException):
            break
        seen = inner
    if isinstance(seen, OSError) and seen.strerror:
        return seen.strerror
    return printable(str(seen).rpartition(">: ")[2] or type(seen).__name__)
