"""Configurations of our own server that rows need. One process serves each, for as long as the tests run."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SIZE = 1000
"""Bytes."""


@dataclass(frozen=True, slots=True)
class Profile:
    """`needs` is told to whoever runs the suite against another server."""

    needs: str
    options: tuple[str, ...]


DEFAULT = Profile("no read timeout that matters", ("--limits.idle_timeout", "1h", "--server.shutdown_timeout", "1h"))
"""Otherwise default settings. A server that waits for what it need not wait for is seen to hang."""

SMALL = Profile("a maximum size", ("--max-size", str(MAX_SIZE)))

HASTY = Profile("a read timeout of a second", ("--limits.idle_timeout", "1s"))

BARE = Profile(
    "every extension switched off",
    ("--tus.disable", "creation,expiration,checksum,termination"),  # what builds on them goes with them
)

NO_CREATION = Profile("the creation extension switched off", ("--tus.disable", "creation"))

SPARTAN = Profile(
    "creation alone: no other extension, no expiry, no download, no CORS, relative Location",
    (
        "--tus.disable",
        "creation-with-upload,creation-defer-length,checksum,termination,concatenation",
        "--expire-after",
        "off",
        "--tus.download",
        "false",
        "--cors.enabled",
        "false",
        "--proxies.relative_location",
        "true",
    ),
)

ORIGIN = "https://app.example"

PROXIED = Profile(
    "a trusted proxy in front, CORS for one origin with credentials, no unfinished parts, no parts once joined",
    (
        "--proxies.trusted",
        "127.0.0.1",
        "--cors.origins",
        ORIGIN,
        "--cors.credentials",
        "true",
        "--cors.allow_headers",
        "X-In",
        "--cors.expose_headers",
        "X-Out",
        "--tus.disable",
        "concatenation-unfinished",
        "--tus.delete_parts",
        "true",
    ),
)

STANDARD = Profile(
    "a trusted proxy in front that tells by Forwarded",
    ("--proxies.trusted", "127.0.0.1", "--proxies.headers", "forwarded"),
)

BRIEF = Profile("an expiry of a second and no sweep", ("--expire-after", "1s", "--sweep-interval", "1h"))

SWEPT = Profile("an expiry of a second and a sweep every second", ("--expire-after", "1s", "--sweep-interval", "1s"))
