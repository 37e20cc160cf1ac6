"""What every dialect must do. Subclass it, say which one is meant, and how its clients ask."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.uploads import changed
from tusserver.protocol.dialect import Dialect, Reply, RequestHead
from tusserver.protocol.errors import (
    InternalError,
    MethodNotAllowed,
    OffsetMismatch,
    ShuttingDown,
    TusError,
    UploadLocked,
    UploadNotFound,
)
from tusserver.protocol.messages import (
    Append,
    Appended,
    Content,
    Create,
    Created,
    Discover,
    Discovered,
    Inspect,
    Inspected,
    InterimOutcome,
    Outcome,
    Progressed,
    Terminate,
    Terminated,
    Unfinished,
)
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Upload, UploadId

ID = UploadId("abc")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REFUSALS: tuple[TusError, ...] = (
    InternalError(),
    MethodNotAllowed("OPTIONS"),
    OffsetMismatch(expected=5, provided=7),
    ShuttingDown(),
    UploadLocked(),
    UploadNotFound(),
)
SENT_BY_ANYBODY = {"content-length"}
READ_BY_ANYBODY = {"cache-control", "content-type"}
"""Headers that a page may read without being allowed to (Fetch: CORS-safelisted response-header names)."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=40)


def a_head(method: str, name: str = "", headers: Mapping[str, str] | None = None, **more: bool) -> RequestHead:
    """A request to a collection at https://example.org/files."""
    return RequestHead(
        method=method,
        name=name,
        headers=headers or {},
        base_url="https://example.org/files",
        base_paths=("/files",),
        trailers=more.get("trailers", False),
    )


def an_upload(offset: int = 5, **values: object) -> Upload:
    return changed(Upload(id=ID, created_at=NOW), offset=offset, length=10, **values)


def names(headers: Iterable[str]) -> set[str]:
    return {name.lower() for name in headers}


class DialectContract:
    """Tests that every dialect passes. An instance is made for each; a dialect has no state."""

    dialect: Dialect

    def creation(self, length: int) -> RequestHead:
        """A request to create an upload of `length` bytes, without any of them."""
        raise NotImplementedError

    def append(self, offset: int, body_length: int) -> RequestHead:
        """A request to append to upload `abc`."""
        raise NotImplementedError

    def inspection(self) -> RequestHead:
        """A request for the state of upload `abc`."""
        raise NotImplementedError

    def termination(self) -> RequestHead:
        """A request to remove upload `abc`."""
        raise NotImplementedError

    def requests(self) -> list[RequestHead]:
        """One of each."""
        return [self.creation(10), self.append(5, 3), self.inspection(), self.termination()]

    def outcomes(self) -> list[Outcome]:
        """What there may be to answer."""
        upload = an_upload(protocol=self.dialect.name)
        whole = an_upload(10, protocol=self.dialect.name, metadata=Metadata("a YQ==,\xff"), finished=True)
        return [
            Discovered(),
            Created(upload=upload),
            Created(upload=an_upload(0, protocol=self.dialect.name), closes=True),
            Appended(upload=upload),
            Inspected(upload=upload),
            Inspected(upload=whole),
            Unfinished(upload=upload),
            Content(upload=whole, size=10, etag="abc"),
            Terminated(),
        ]

    def replies(self) -> list[Reply]:
        """Every answer, refusals too."""
        done = [self.dialect.write(outcome, head) for outcome in self.outcomes() for head in self.requests()]
        return done + [self.dialect.refuse(error, head) for error in REFUSALS for head in self.requests()]

    # what it says of itself ------------------------------------------------------------------------------------------

    def test_it_has_a_name_that_can_stand_in_records(self) -> None:
        assert re.fullmatch(r"[a-z0-9-]{1,32}", self.dialect.name)

    def test_its_lists_are_of_names_and_name_each_once(self) -> None:
        dialect = self.dialect
        for listed in (dialect.methods, dialect.request_headers, dialect.response_headers):
            assert all(map(_TOKEN.fullmatch, listed))
            assert len(names(listed)) == len(listed)
        assert all(method.isupper() for method in dialect.methods)
        assert all(name.islower() for name in (*dialect.list_headers, *dialect.long_headers))

    def test_a_page_may_send_every_request(self) -> None:
        allowed = names(self.dialect.request_headers) | SENT_BY_ANYBODY
        for head in self.requests():
            assert head.method in self.dialect.methods
            assert head.headers.keys() <= allowed

    def test_a_page_may_read_every_answer(self) -> None:
        allowed = names(self.dialect.response_headers) | READ_BY_ANYBODY
        for outcome in self.outcomes():
            told = names(self.dialect.write(outcome, self.inspection()).headers)
            assert told - {"retry-after"} <= allowed

    # requests --------------------------------------------------------------------------------------------------------

    def test_its_requests_are_known_from_those_of_nobody(self) -> None:
        for head in self.requests():
            assert self.dialect.speaks(head)
        for method in ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"):
            assert not self.dialect.speaks(a_head(method, "abc"))

    def test_a_creation_is_read_with_its_length(self) -> None:
        command = self.dialect.read(self.creation(10))
        assert isinstance(command, Create)
        assert (command.length, command.protocol) == (10, self.dialect.name)

    def test_an_append_is_read_with_its_place_and_size(self) -> None:
        command = self.dialect.read(self.append(5, 3))
        assert isinstance(command, Append)
        assert (command.id, command.offset, command.body_length) == (ID, 5, 3)
        assert command.protocol == self.dialect.name

    def test_the_other_requests_are_read(self) -> None:
        assert self.dialect.read(self.inspection()) == Inspect(id=ID)
        assert self.dialect.read(self.termination()) == Terminate(id=ID)
        for name in ("", "abc"):
            assert self.dialect.read(a_head("OPTIONS", name)) == Discover()

    def test_the_same_request_is_read_in_the_same_way(self) -> None:
        for head in self.requests():
            assert self.dialect.read(head) == self.dialect.read(head)

    @pytest.mark.parametrize("name", ["../abc", "a/b", "a b", "\xe9", "x" * 300])
    def test_an_upload_that_cannot_exist_is_not_found(self, name: str) -> None:
        for head in (self.append(5, 3), self.inspection(), self.termination()):
            with pytest.raises(UploadNotFound):
                self.dialect.read(a_head(head.method, name, head.headers))

    def test_whatever_is_sent_is_read_or_refused(self) -> None:
        sent = [name.lower() for name in self.dialect.request_headers]
        methods = st.sampled_from([*self.dialect.methods, "PUT", "FOO"])
        headers = st.builds(
            lambda head, other: {**head.headers, **other},
            st.sampled_from(self.requests()),
            st.dictionaries(st.sampled_from(sent), _TEXT, max_size=3),
        )

        @given(methods, st.sampled_from(["", "abc", "/"]), headers)
        def ask(method: str, name: str, headers: dict[str, str]) -> None:
            with contextlib.suppress(TusError):
                self.dialect.read(a_head(method, name, headers))

        ask()

    # answers ---------------------------------------------------------------------------------------------------------

    def test_every_answer_can_be_sent(self) -> None:
        for reply in self.replies():
            for name, value in reply.headers.items():
                assert _TOKEN.fullmatch(name)
                assert value.encode("latin-1")
                assert not re.search(r"[\r\n\0]", value)

    def test_what_stands_in_every_answer_stands_in_refusals_too(self) -> None:
        done = [self.dialect.write(outcome, self.inspection()) for outcome in self.outcomes()]
        always = set.intersection(*(names(reply.headers) for reply in done))
        for reply in self.replies():
            assert always <= names(reply.headers)

    def test_what_was_done_is_a_success_and_what_is_not_here_yet_none(self) -> None:
        for outcome in self.outcomes():
            reply = self.dialect.write(outcome, self.inspection())
            assert (200 <= reply.status < 300) is not isinstance(outcome, Unfinished)

    def test_a_creation_is_answered_with_the_url(self) -> None:
        reply = self.dialect.write(Created(upload=an_upload(protocol=self.dialect.name)), self.creation(10))
        assert (reply.status, reply.headers["Location"]) == (201, "https://example.org/files/abc")

    @pytest.mark.parametrize("outcome", [Appended, Inspected])
    def test_a_client_is_told_how_far_its_upload_is(self, outcome: type[Appended | Inspected]) -> None:
        def told(offset: int) -> Reply:
            return self.dialect.write(outcome(upload=an_upload(offset, protocol=self.dialect.name)), self.inspection())

        assert told(5) == told(5)
        assert told(5) != told(6)

    def test_no_answer_to_a_request_is_kept_by_caches(self) -> None:
        """One that was would be answered with an old offset."""
        for outcome in self.outcomes():
            if not isinstance(outcome, Content):
                assert self.dialect.write(outcome, self.inspection()).headers["Cache-Control"] == "no-store"

    def test_a_connection_that_must_end_is_ended(self) -> None:
        assert self.dialect.write(Created(upload=an_upload(), closes=True), self.creation(10)).closes
        assert self.dialect.refuse(ShuttingDown(), self.append(5, 3)).closes
        assert not self.dialect.refuse(UploadNotFound(), self.append(5, 3)).closes

    # refusals --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
    def test_a_refusal_is_told_by_its_status_and_when_to_retry(self, error: TusError) -> None:
        reply = self.dialect.refuse(error, self.append(5, 3))
        assert reply.status == error.status
        assert reply.headers.get("Retry-After") == (None if error.retry_after is None else str(error.retry_after))

    @pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
    def test_a_refusal_of_the_state_has_no_body(self, error: TusError) -> None:
        head = self.inspection()
        assert head.method != "HEAD" or self.dialect.refuse(error, head).body == b""

    def test_an_offset_that_is_wrong_is_answered_with_the_right_one(self) -> None:
        reply = self.dialect.refuse(OffsetMismatch(expected=5, provided=7), self.append(7, 3))
        assert "5" in reply.headers.values()

    # interim answers -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("outcome", [Created, Progressed])
    def test_an_interim_answer_has_no_framing(self, outcome: type[InterimOutcome]) -> None:
        for head in self.requests():
            interim = self.dialect.interim(outcome(upload=an_upload(protocol=self.dialect.name)), head)
            assert interim is None or self.dialect.has_interim
            if interim is not None:
                assert 102 <= interim.status <= 199
                assert not names(interim.headers) & {"content-length", "transfer-encoding", "connection"}
