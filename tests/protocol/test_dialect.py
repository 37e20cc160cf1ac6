"""Two dialects pass the contract, and are told apart."""

from __future__ import annotations

import pytest

from tests.contracts.dialects import DialectContract, a_head, an_upload
from tests.support.draft import PARTIAL, DraftDialect
from tusserver.protocol.dialect import Dialect, Interim, Offer, Reply, RequestHead, choose, discovery, writer_of
from tusserver.protocol.extensions import Extension
from tusserver.protocol.limits import Limits
from tusserver.protocol.messages import Append, Content, Create, Created, Inspected, Outcome, Progressed, Terminated
from tusserver.protocol.tus import TusDialect

OFFER = Offer(extensions=frozenset(Extension), limits=Limits(max_size=1000))
TUS, DRAFT = TusDialect(OFFER), DraftDialect(OFFER)
BOTH: tuple[Dialect, ...] = (TUS, DRAFT)


class TestTus(DialectContract):
    dialect = TUS

    def creation(self, length: int) -> RequestHead:
        return a_head("POST", "", {"tus-resumable": "1.0.0", "upload-length": str(length)})

    def append(self, offset: int, body_length: int) -> RequestHead:
        headers = {"content-type": "application/offset+octet-stream", "upload-offset": str(offset)}
        return a_head("PATCH", "abc", {"tus-resumable": "1.0.0", "content-length": str(body_length), **headers})

    def inspection(self) -> RequestHead:
        return a_head("HEAD", "abc", {"tus-resumable": "1.0.0"})

    def termination(self) -> RequestHead:
        return a_head("DELETE", "abc", {"tus-resumable": "1.0.0"})


class TestDraft(DialectContract):
    dialect = DRAFT

    def creation(self, length: int) -> RequestHead:
        headers = {"upload-complete": "?0", "upload-length": str(length)}
        return a_head("POST", "", {"upload-draft-interop-version": "6", **headers})

    def append(self, offset: int, body_length: int) -> RequestHead:
        headers = {"content-type": PARTIAL, "upload-offset": str(offset), "upload-complete": "?0"}
        more = {"upload-draft-interop-version": "6", "content-length": str(body_length)}
        return a_head("PATCH", "abc", {**headers, **more})

    def inspection(self) -> RequestHead:
        return a_head("HEAD", "abc", {"upload-draft-interop-version": "6"})

    def termination(self) -> RequestHead:
        return a_head("DELETE", "abc", {"upload-draft-interop-version": "6"})


@pytest.mark.parametrize("dialects", [BOTH, BOTH[::-1]])
def test_a_request_is_read_in_the_dialect_that_it_is_in(dialects: tuple[Dialect, ...]) -> None:
    for contract in (TestTus(), TestDraft()):
        for head in contract.requests():
            assert choose(head, dialects) is contract.dialect


@pytest.mark.parametrize("dialects", [BOTH, BOTH[::-1]])
def test_a_request_that_is_in_none_is_read_by_the_first(dialects: tuple[Dialect, ...]) -> None:
    assert choose(a_head("GET", "abc"), dialects) is dialects[0]


def test_what_is_offered_is_said_in_one_answer() -> None:
    reply = discovery(a_head("OPTIONS"), BOTH)
    assert reply.status == 200
    assert (reply.headers["Tus-Version"], reply.headers["Tus-Max-Size"]) == ("1.0.0", "1000")
    assert reply.headers["Upload-Limit"] == "min-size=0, max-size=1000"
    assert reply.headers["Cache-Control"] == "no-store"


def test_what_several_say_of_one_header_is_one_list() -> None:
    class Other(DraftDialect):
        def write(self, outcome: Outcome, head: RequestHead) -> Reply:
            return Reply(200, {"Accept-Patch": "application/other"})

    reply = discovery(a_head("OPTIONS"), (DRAFT, Other(OFFER)))
    assert reply.headers["Accept-Patch"] == f"{PARTIAL}, application/other"


def test_a_request_in_no_dialect_is_answered_in_that_of_its_upload() -> None:
    nobody, tus = a_head("GET", "abc"), TestTus().inspection()
    drafted = Content(upload=an_upload(10, protocol="draft"), size=10, etag="abc")
    assert writer_of(drafted, nobody, TUS, BOTH) is DRAFT
    assert writer_of(drafted, tus, TUS, BOTH) is TUS
    assert writer_of(Inspected(upload=an_upload()), nobody, TUS, BOTH) is TUS
    assert writer_of(Inspected(upload=an_upload(protocol="of an older server")), nobody, TUS, BOTH) is TUS
    assert writer_of(Terminated(), nobody, TUS, BOTH) is TUS


def test_a_request_says_whether_it_completes_its_upload() -> None:
    whole = a_head("POST", "", {"upload-complete": "?1", "content-length": "5"})
    create = DRAFT.read(whole)
    assert isinstance(create, Create)
    assert create.length == 5
    assert create.first == Append(id=None, offset=0, body_length=5, completes=True, protocol="draft")


def test_interim_answers_say_where_the_upload_is_and_how_far() -> None:
    head, interop = TestDraft().creation(10), {"Upload-Draft-Interop-Version": "6"}
    located = {**interop, "Location": "https://example.org/files/abc"}
    assert DRAFT.interim(Created(upload=an_upload()), head) == Interim(104, located)
    assert DRAFT.interim(Progressed(upload=an_upload(5)), head) == Interim(104, {**interop, "Upload-Offset": "5"})
    assert TUS.interim(Created(upload=an_upload()), head) is None


@pytest.mark.parametrize("status", [99, 200, 404])
def test_an_interim_answer_has_an_interim_status(status: int) -> None:
    with pytest.raises(ValueError, match="from 100 to 199"):
        Interim(status)
