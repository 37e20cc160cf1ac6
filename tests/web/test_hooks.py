"""What an application that is asked by hooks can do to uploads and answers, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import httpx
import pytest

from tests.support.hooks import MemoryHooks
from tusserver import MemoryLocker, MemoryStore, Metadata, UploadId, UploadRejected
from tusserver.events import Observers
from tusserver.hooks.base import HookResponse, HookType, UploadChanges
from tusserver.indexes.memory import MemoryOpenUploads
from tusserver.protocol.dialect import Offer, ReplyChanges
from tusserver.protocol.errors import StoreUnavailable
from tusserver.protocol.limits import Limits
from tusserver.protocol.tus import TusDialect
from tusserver.protocol.upload import Upload
from tusserver.service.wiring import Options, wire
from tusserver.web.endpoint import UploadEndpoint
from tusserver.web.forwarded import Proxies, PublicUrl

TUS = {"Tus-Resumable": "1.0.0"}
OCTETS = {**TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
JSON = {"content-type": "application/json", "x-mine": "yes"}


class Connect(Protocol):
    """Makes a client of a server whose application answers as a test says."""

    def __call__(
        self, responses: Mapping[HookType, HookResponse], store: MemoryStore = ..., limits: Limits = ...
    ) -> httpx.AsyncClient: ...


class BreaksAtTheEnd(MemoryStore):
    """Cannot commit that an upload is finished."""

    async def commit(self, upload: Upload) -> None:
        """See `Store.commit`."""
        if upload.finished:
            raise StoreUnavailable
        await super().commit(upload)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Return a `Connect`."""
    clients: list[httpx.AsyncClient] = []

    def make(
        responses: Mapping[HookType, HookResponse], store: MemoryStore | None = None, limits: Limits = Limits()
    ) -> httpx.AsyncClient:
        store = store or MemoryStore()
        hooks = MemoryHooks(responses=responses)
        options = Options(limits=limits)
        service = wire(
            store, MemoryLocker(), MemoryOpenUploads(), hooks, Observers(), options, new_id=None, now=store.clock
        )
        dialect = TusDialect(Offer(extensions=service.extensions))
        app = UploadEndpoint(service.uploads, [dialect], PublicUrl(Proxies()), Limits())
        clients.append(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tus.test"))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


async def test_a_creation_is_refused_with_status_headers_and_body_of_the_application(connect: Connect) -> None:
    refusal = UploadRejected("not you", status=402)
    answer = ReplyChanges(headers=JSON, body=b'{"pay": 5}')
    client = connect({HookType.PRE_CREATE: HookResponse(refusal=refusal, answer=answer)})
    response = await client.post("/", headers={**TUS, "Upload-Length": "5"})
    assert (response.status_code, response.content) == (402, b'{"pay": 5}')
    assert (response.headers["Content-Type"], response.headers["X-Mine"]) == ("application/json", "yes")
    assert response.headers["Tus-Resumable"] == "1.0.0"


async def test_an_upload_is_created_with_the_id_and_metadata_of_the_application(connect: Connect) -> None:
    changes = UploadChanges(id=UploadId("mine"), metadata=Metadata("user YW5u"))
    client = connect({HookType.PRE_CREATE: HookResponse(changes=changes)})
    response = await client.post("/", headers={**TUS, "Upload-Length": "5", "Upload-Metadata": "user Ym9i"})
    assert response.headers["Location"] == "http://tus.test/mine"
    response = await client.head("/mine", headers=TUS)
    assert response.headers["Upload-Metadata"] == "user YW5u"


async def test_the_last_answer_is_shaped_and_says_the_offset_all_the_same(connect: Connect) -> None:
    answer = ReplyChanges(status=200, headers={**JSON, "Upload-Offset": "77"}, body=b"{}")
    client = connect({HookType.PRE_FINISH: HookResponse(answer=answer)})
    location = (await client.post("/", headers={**TUS, "Upload-Length": "5"})).headers["Location"]
    response = await client.patch(location, headers=OCTETS, content=b"hello")
    assert (response.status_code, response.content, response.headers["X-Mine"]) == (200, b"{}", "yes")
    assert response.headers["Upload-Offset"] == "5"


async def test_an_answer_that_has_no_body_stays_without_one(connect: Connect) -> None:
    client = connect({HookType.PRE_FINISH: HookResponse(answer=ReplyChanges(body=b"lost"))})
    location = (await client.post("/", headers={**TUS, "Upload-Length": "5"})).headers["Location"]
    response = await client.patch(location, headers=OCTETS, content=b"hello")
    assert (response.status_code, response.content) == (204, b"")


async def test_an_upload_that_is_refused_at_its_end_is_removed(connect: Connect) -> None:
    refusal = HookResponse(refusal=UploadRejected("a virus", status=422), answer=ReplyChanges(headers=JSON))
    client = connect({HookType.PRE_FINISH: refusal})
    location = (await client.post("/", headers={**TUS, "Upload-Length": "5"})).headers["Location"]
    response = await client.patch(location, headers=OCTETS, content=b"hello")
    assert (response.status_code, response.headers["X-Mine"]) == (422, "yes")
    assert (await client.head(location, headers=TUS)).status_code == 404


async def test_a_termination_that_is_refused_leaves_the_upload(connect: Connect) -> None:
    client = connect({HookType.PRE_TERMINATE: HookResponse(refusal=UploadRejected(status=403))})
    location = (await client.post("/", headers={**TUS, "Upload-Length": "5"})).headers["Location"]
    assert (await client.delete(location, headers=TUS)).status_code == 403
    assert (await client.head(location, headers=TUS)).status_code == 200


async def test_an_answer_of_who_agreed_is_not_that_of_a_request_that_fails_afterwards(connect: Connect) -> None:
    agreed = HookResponse(answer=ReplyChanges(status=200, headers=JSON, body=b"{}"))
    client = connect({HookType.PRE_FINISH: agreed}, BreaksAtTheEnd())
    location = (await client.post("/", headers={**TUS, "Upload-Length": "5"})).headers["Location"]
    response = await client.patch(location, headers=OCTETS, content=b"hello")
    assert (response.status_code, response.headers.get("X-Mine")) == (503, None)


async def test_an_answer_of_who_agreed_is_not_that_of_a_creation_without_a_place(connect: Connect) -> None:
    agreed = HookResponse(answer=ReplyChanges(status=202))
    client = connect({HookType.PRE_CREATE: agreed}, limits=Limits(uploads=1))
    statuses = [(await client.post("/", headers={**TUS, "Upload-Length": "5"})).status_code for _ in range(2)]
    assert statuses == [202, 503]


async def test_a_final_upload_that_is_refused_changes_the_answer_of_who_asked_for_it_alone(connect: Connect) -> None:
    refusal = UploadRejected("a virus", status=422)
    client = connect({HookType.PRE_FINISH: HookResponse(refusal=refusal, answer=ReplyChanges(status=422, body=b"bad"))})
    partial = {**TUS, "Upload-Concat": "partial", "Upload-Length": "5"}
    parts = [(await client.post("/", headers=partial)).headers["Location"] for _ in range(2)]
    final = {**TUS, "Upload-Concat": f"final;{' '.join(parts)}"}
    await client.patch(parts[0], headers=OCTETS, content=b"hello")
    location = (await client.post("/", headers=final)).headers["Location"]
    response = await client.patch(parts[1], headers=OCTETS, content=b"world")
    assert (response.status_code, response.content) == (204, b"")
    assert (await client.head(location, headers=TUS)).status_code == 404
    response = await client.post("/", headers=final)
    assert (response.status_code, response.content) == (422, b"bad")
