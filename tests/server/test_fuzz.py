"""Streams of requests, right and broken, cut anywhere: `make fuzz` looks for long, the suite at the same few each time.

Two questions. Do we read a stream as another parser does? What it refuses and we take, or takes otherwise, is how one
request is smuggled past another server in another. And does anything that is sent make the server fail?
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.server.spoken import Heard, Request, answers_to, read_by_h11, speak
from tusserver.app import Tus
from tusserver.protocol.limits import Limits, Timeouts
from tusserver.stores.memory import MemoryStore

SOON = timedelta(milliseconds=50)
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))

fuzzed = settings(
    max_examples=EXAMPLES or 150,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

# streams -------------------------------------------------------------------------------------------------------------

ID = b"0123456789abcdef"
HOST = (b"Host", b"here")
METHODS = [b"GET", b"HEAD", b"POST", b"PATCH", b"DELETE", b"OPTIONS", b"PUT", b"CONNECT", b"TRACE", b"get", b"FOO"]
TARGETS = [
    *(b"/files", b"/files/", b"/files/" + ID, b"/files/" + ID + b"?a=b", b"/", b"*", b"/files/%2e%2e", b"/files/%00"),
    *(b"http://here/files", b"//files", b"/files/\xff", b"/a b", b"", b"here:80", b"/files#x", b"/files/" + b"a" * 200),
]
VERSIONS = [b"HTTP/1.1"] * 12 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b""]
NAMES = [
    *(b"Tus-Resumable", b"Upload-Length", b"Upload-Offset", b"Upload-Metadata", b"Upload-Concat", b"Upload-Checksum"),
    *(
        b"Upload-Defer-Length",
        b"Content-Type",
        b"Expect",
        b"Connection",
        b"Upgrade",
        b"X-HTTP-Method-Override",
        b"Host",
    ),
    *(
        b"Origin",
        b"Access-Control-Request-Method",
        b"Range",
        b"If-None-Match",
        b"Trailer",
        b"TE",
        b"X",
        b"X ",
        b"",
        b"@",
    ),
    *(b"Content-Encoding", b"Forwarded", b"X-Forwarded-Host", b"Content-Length", b"Transfer-Encoding"),
]
VALUES = [
    *(b"1.0.0", b"0", b"5", b"10", b"-1", b"1", b"99999999999999999999", b"\xff", b"", b"  5 ", b"5,5", b"0x5", b"+5"),
    *(b"application/offset+octet-stream", b"100-continue", b"close", b"keep-alive", b"upgrade", b"h2c", b"websocket"),
    *(b"filename YQ==", b"a,b,c", b"k k k", b"partial", b"final;/files/" + ID, b"final;", b"sha1 AAAA", b"PATCH"),
    *(b"chunked", b"Chunked", b"gzip, chunked", b"identity", b"chunked, chunked", b"https://a.example", b"bytes=0-1"),
    *(b"bytes=-", b"a\x00b", b"a\nb", b"a\rb", b"a\x7fb", b'"', b"*", b"upload-checksum", b"a" * 300, b"gzip"),
]
SIZES = [b"%x", b"%X", b"0%x", b"%x;a=b", b"%x ", b" %x", b"+%x", b"0x%x", b"%x;\n", b"%x_", b"-%x"]

fields = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=5)
usual = st.sampled_from(
    [
        [(b"Tus-Resumable", b"1.0.0"), (b"Upload-Length", b"10")],
        [
            (b"Tus-Resumable", b"1.0.0"),
            (b"Upload-Offset", b"0"),
            (b"Content-Type", b"application/offset+octet-stream"),
        ],
        [(b"Tus-Resumable", b"1.0.0")],
        [],
    ]
)


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """A body in chunks, most of them right."""
    at, out = 0, b""
    while at < len(body):
        size = draw(st.integers(1, len(body) - at))
        form = draw(st.sampled_from([b"%x"] * 12 + SIZES))
        out += form % size + draw(st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b""]))
        out += body[at : at + size] + draw(st.sampled_from([b"\r\n"] * 12 + [b"\n", b"", b"x\r\n"]))
        at += size
    trailer = draw(st.sampled_from([b""] * 8 + [b"X: y\r\n", b"Content-Length: 5\r\n", b"bad\r\n", b" fold\r\n"]))
    return out + draw(st.sampled_from([b"0\r\n"] * 12 + [b"00\r\n", b"0;x\r\n", b"0\n", b"0 \r\n"])) + trailer + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, most of them right in most of it."""
    body = draw(st.binary(max_size=30))
    head = [HOST, *draw(usual), *draw(fields)] if draw(st.integers(0, 9)) else draw(fields)
    match draw(st.integers(0, 6)):
        case 0 | 1:
            head.append((b"Content-Length", b"%d" % len(body)))
        case 2 | 3:
            head.append((b"Transfer-Encoding", b"chunked"))
            body = draw(chunked(body))
        case 4:
            head.append((b"Content-Length", b"%d" % draw(st.integers(0, 40))))
        case 5:
            head += [(b"Content-Length", b"%d" % len(body)), (b"Transfer-Encoding", b"chunked")]
        case _:
            body = b""
    end = draw(st.sampled_from([b"\r\n"] * 20 + [b"\n", b"\r", b" \r\n"]))
    colon = draw(st.sampled_from([b": "] * 20 + [b":", b" : ", b":\t", b":\r\n "]))
    line = b" ".join([draw(st.sampled_from(METHODS)), draw(st.sampled_from(TARGETS)), draw(st.sampled_from(VERSIONS))])
    return end.join([line, *(name + colon + value for name, value in draw(st.permutations(head))), b"", b""]) + body


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Some requests one after the other, with a fault or none, in pieces."""
    stream = b"".join(draw(st.lists(requests(), min_size=1, max_size=4)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(stream)))
        gone = draw(st.integers(0, 3))
        put = draw(st.binary(max_size=2) | st.sampled_from([b"\r\n", b"\n", b"\r\n\r\n", b" ", b"\x00", b":"]))
        stream = stream[:at] + put + stream[at + gone :]
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]


# properties ----------------------------------------------------------------------------------------------------------


def differs(ours: Request, theirs: Request) -> bool:
    """Whether two parsers disagree about a request, as far as both have seen it."""
    if ours.method != theirs.method or not _same_target(ours.target, theirs.target):
        return True
    if ours.whole:
        return not theirs.whole or ours.body != theirs.body
    return not theirs.body.startswith(ours.body)


def _same_target(ours: bytes, theirs: bytes) -> bool:
    """Whether ours is what is left of theirs without scheme, host and fragment."""
    theirs = theirs.partition(b"#")[0]
    if b"://" in theirs.partition(b"?")[0] and not theirs.startswith(b"/"):
        theirs = b"/" + theirs.partition(b"://")[2].partition(b"/")[2]
    return ours == theirs or ours == theirs.removesuffix(b"?")


def is_read_with_leniency(stream: bytes) -> bool:
    """Whether our parser may pass over something that h11 does not: nothing that frames or names a request.

    More than one blank within a request line (RFC 9112 §3 allows that), and a line end before it that is half a line
    end (§2.2 wants an empty line there passed over).
    """
    wide = any(b"  " in line for line in stream.split(b"\r\n"))
    return wide or re.search(rb"(?:\r|(?<!\r)\n)[\r\n]*(?=[A-Z]{3,7} )", stream) is not None


@fuzzed
@given(streams())
@example([b"PATCH /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nhello"])
@example([b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"])
@example([b"GET /a HTTP/1.1\r\n\r\n"])
@example([b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"])
@example([b"GET /a\r\n\r\n"])
def test_whatever_we_read_another_parser_reads_in_the_same_way(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    heard, theirs = speak(pieces), read_by_h11(stream)
    if is_read_with_leniency(stream):
        return
    for number, ours in enumerate(heard.requests):
        assert number < len(theirs), f"we take what h11 refuses: {ours}"
        assert not differs(ours, theirs[number]), f"we read {ours} where h11 reads {theirs[number]}"
    assert not heard.errors
    answers_to([request.method for request in heard.requests], heard.answers)


@fuzzed
@given(streams())
def test_a_stream_means_the_same_wherever_it_is_cut(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    several = [speak(way) for way in ([stream], pieces, [bytes([byte]) for byte in stream])]
    seen = sorted(([request for request in heard.requests if request.whole] for heard in several), key=len)
    # Of requests that stand in one piece with nonsense behind them, those that have to wait may never begin.
    assert seen[0] == seen[2][: len(seen[0])]
    assert seen[1] == seen[2][: len(seen[1])]


@contextmanager
def a_server() -> Iterator[tuple[Tus, MemoryStore]]:
    store = MemoryStore()
    numbers = iter([ID.decode(), *(f"made-{number}" for number in range(1000))])
    yield (
        Tus(
            store,
            limits=Limits(max_size=1000),
            new_id=numbers.__next__,
            timeouts=Timeouts(idle_timeout=SOON, lock_timeout=SOON),
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        ),
        store,
    )


CREATION = b"POST /files HTTP/1.1\r\nHost: here\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 10\r\n\r\n"


@fuzzed
@given(streams())
def test_whatever_is_sent_no_answer_is_the_fault_of_the_server(pieces: list[bytes]) -> None:
    with a_server() as (tus, _):
        heard: Heard = speak([CREATION, *pieces], lambda *args: mounted(tus, *args))
    assert not heard.errors
    statuses = answers_to([request.method for request in heard.requests], heard.answers)
    assert statuses[0] == 201
    assert all(status < 500 for status in statuses), heard.answers


async def mounted(tus: Tus, scope: dict[str, object], *args: object) -> None:
    """Serve the app below /files."""
    await tus({**scope, "root_path": "/files"} if str(scope["path"]).startswith("/files") else scope, *args)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "answers",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nx"],
)
def test_the_check_of_answers_finds_those_that_are_wrong(answers: bytes) -> None:
    with pytest.raises(Exception, match=r"short|more answers|illegal"):
        answers_to([b"GET"], answers)
