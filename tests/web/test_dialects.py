"""Two dialects on one server: each client is served in its own, and none gets in the way of the other."""

from __future__ import annotations

import httpx
import pytest

from tests.support.draft import PARTIAL, DraftDialect
from tests.web.asking import Client
from tests.web.conftest import Serve
from tusserver import Limits, Upload
from tusserver.protocol.tus import TusDialect

DRAFT = {"Upload-Draft-Interop-Version": "6"}


@pytest.fixture
def finished() -> list[Upload]:
    """Uploads whose end the application was told of."""
    return []


@pytest.fixture
async def client(serve: Serve, finished: list[Upload]) -> Client:
    async def note(upload: Upload) -> None:
        finished.append(upload)

    return await serve(dialects=(TusDialect, DraftDialect), on_finished=note, limits=Limits(max_size=1000))


async def create(client: Client, complete: str, body: bytes = b"", length: int | None = None) -> httpx.Response:
    """POST in the draft."""
    headers = {**DRAFT, "Upload-Complete": complete}
    if length is not None:
        headers["Upload-Length"] = str(length)
    return await client.ask("POST", None, headers, body, tus=False)


async def append(client: Client, url: str, offset: int, body: bytes, complete: str = "?0") -> httpx.Response:
    """PATCH in the draft."""
    headers = {**DRAFT, "Upload-Complete": complete, "Upload-Offset": str(offset), "Content-Type": PARTIAL}
    return await client.ask("PATCH", url, headers, body, tus=False)


async def head(client: Client, url: str) -> httpx.Response:
    """HEAD in the draft."""
    return await client.ask("HEAD", url, DRAFT, tus=False)


async def test_each_is_answered_in_its_own(client: Client) -> None:
    url = await client.upload(5)
    assert (await client.head(url)).headers["Tus-Resumable"] == "1.0.0"
    drafted = await create(client, "?0", length=5)
    assert (drafted.status_code, drafted.headers["Upload-Complete"]) == (201, "?0")
    for answer in (drafted, await head(client, drafted.headers["Location"]), await create(client, "?0", b"x" * 1001)):
        assert answer.headers["Upload-Draft-Interop-Version"] == "6"
        assert "Tus-Resumable" not in answer.headers


async def test_a_request_completes_the_upload_and_not_its_length(client: Client, finished: list[Upload]) -> None:
    url = (await create(client, "?0", b"hello", length=11)).headers["Location"]
    answer = await append(client, url, 5, b" world")
    assert (answer.status_code, answer.headers["Upload-Complete"], answer.headers["Upload-Offset"]) == (201, "?0", "11")
    assert (await head(client, url)).headers["Upload-Complete"] == "?0"
    assert (await client.get(url)).status_code == 423
    assert finished == []
    answer = await append(client, url, 11, b"", "?1")
    assert (answer.status_code, answer.headers["Upload-Complete"]) == (200, "?1")
    assert (await head(client, url)).headers["Upload-Complete"] == "?1"
    assert [upload.id for upload in finished] == [url.rpartition("/")[2]]
    assert (await client.get(url)).content == b"hello world"


@pytest.mark.parametrize("body", [b"hello", b""])
async def test_an_upload_may_be_complete_at_once(client: Client, finished: list[Upload], body: bytes) -> None:
    answer = await create(client, "?1", body)
    assert (answer.status_code, answer.headers["Upload-Complete"]) == (201, "?1")
    assert len(finished) == 1
    assert (await client.get(answer.headers["Location"])).content == body


async def test_a_length_may_follow_from_the_end_of_the_last_body(client: Client, finished: list[Upload]) -> None:
    async def chunked(method: str, url: str | None, **headers: str) -> httpx.Response:
        asked = {**DRAFT, "Upload-Complete": "?1", **headers}
        return await client.ask(method, url, asked, [b"hel", b"lo"], tus=False)

    whole = await chunked("POST", None)
    url = (await create(client, "?0")).headers["Location"]
    assert "Upload-Length" not in (await head(client, url)).headers
    last = await chunked("PATCH", url, **{"Upload-Offset": "0", "Content-Type": PARTIAL})
    for answer in (whole, last, await head(client, url)):
        assert (answer.headers["Upload-Complete"], answer.headers["Upload-Length"]) == ("?1", "5")
    assert len(finished) == 2


async def test_bytes_of_one_do_not_get_into_an_upload_of_the_other(client: Client) -> None:
    drafted = (await create(client, "?0", length=5)).headers["Location"]
    refused = await client.patch(drafted, 0, b"hello")
    assert (refused.status_code, refused.text.split(":")[0]) == (400, "ERR_PROTOCOL_MISMATCH")
    refused = await append(client, await client.upload(5), 0, b"hello")
    assert refused.status_code == 400
    assert (await head(client, drafted)).headers["Upload-Offset"] == "0"


async def test_a_download_has_the_headers_of_the_protocol_of_its_upload(client: Client) -> None:
    drafted = (await create(client, "?1", b"hello")).headers["Location"]
    answer = await client.get(drafted)
    assert (answer.content, answer.headers["Upload-Complete"]) == (b"hello", "?1")
    assert "Tus-Resumable" not in answer.headers
    assert "Upload-Complete" not in (await client.get(await client.complete(b"hello"))).headers


async def test_a_wrong_offset_is_answered_in_the_dialect_of_the_request(client: Client) -> None:
    url = (await create(client, "?0", b"hello", length=11)).headers["Location"]
    refused = await append(client, url, 3, b"lo")
    assert (refused.status_code, refused.headers["Upload-Offset"]) == (409, "5")
    assert refused.headers["Upload-Complete"] == "?0"


async def test_options_say_what_both_offer(client: Client) -> None:
    answer = await client.ask("OPTIONS", tus=False)
    assert (answer.status_code, answer.headers["Tus-Version"]) == (200, "1.0.0")
    assert answer.headers["Upload-Limit"] == "min-size=0, max-size=1000"
    assert answer.headers["Accept-Patch"] == PARTIAL


async def test_a_page_may_use_both(client: Client) -> None:
    page = {"Origin": "https://app.example.org"}
    asked = {**page, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "upload-complete"}
    preflight = await client.ask("OPTIONS", None, asked, tus=False)
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower()
    assert preflight.is_success
    assert "tus-resumable" in allowed
    assert "upload-draft-interop-version" in allowed
    assert preflight.headers["Upload-Limit"] == "min-size=0, max-size=1000"
    exposed = (await client.ask("POST", None, {**page, "Upload-Length": "5"})).headers["Access-Control-Expose-Headers"]
    assert {"tus-version", "upload-complete"} <= set(exposed.lower().replace(" ", "").split(","))
