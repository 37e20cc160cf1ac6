from __future__ import annotations

from datetime import timedelta

import httpx
import pytest

from tests.web.asking import Client
from tests.web.conftest import Serve
from tusserver import Cors, Limits, Upload

PAGE = "https://app.example.org"
OTHER = "https://evil.example.org"

SENT = [
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "Content-Type",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Checksum",
    "X-HTTP-Method-Override",
    "X-Request-ID",
    "Authorization",
    "X-Requested-With",
]
READ = [
    "Location",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Expires",
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
]


async def preflight(
    client: Client, method: str, origin: str = PAGE, *headers: str, url: str = "/files"
) -> httpx.Response:
    """Ask what a browser asks before a request that is not simple."""
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    if headers:
        asked["Access-Control-Request-Headers"] = ", ".join(headers).lower()
    return await client.ask("OPTIONS", url, asked, tus=False)


def listed(response: httpx.Response, header: str) -> set[str]:
    """Members of a list, in lower case."""
    return {member.strip().lower() for member in response.headers.get(header, "").split(",")} - {""}


# out of the box ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "DELETE", "GET"])
@pytest.mark.parametrize("url", ["/files", "/files/", "/files/nobody"])
async def test_a_page_may_send_every_request_with_every_header(client: Client, method: str, url: str) -> None:
    response = await preflight(client, method, PAGE, *SENT, url=url)
    assert response.is_success
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert listed(response, "Access-Control-Allow-Methods") >= {"post", "head", "patch", "delete", "get", "options"}
    assert listed(response, "Access-Control-Allow-Headers") >= {header.lower() for header in SENT}
    assert response.headers["Access-Control-Max-Age"] == "86400"


async def test_a_preflight_answers_what_an_options_of_tus_asks_too(serve: Serve) -> None:
    client = await serve(limits=Limits(max_size=1000))
    response = await preflight(client, "POST")
    assert (response.headers["Tus-Version"], response.headers["Tus-Max-Size"]) == ("1.0.0", "1000")
    assert "creation" in listed(response, "Tus-Extension")
    assert response.headers["Tus-Resumable"] == "1.0.0"


async def test_a_page_may_read_every_header_of_every_answer(client: Client) -> None:
    url = await client.upload(10, b"hello")
    answers = [
        await client.create(5, {"Origin": PAGE}),
        await client.ask("HEAD", url, {"Origin": PAGE}),
        await client.patch(url, 5, b" you!", {"Origin": PAGE}),
        await client.get(url, {"Origin": PAGE}),
        await client.ask("OPTIONS", url, {"Origin": PAGE}),
        await client.ask("DELETE", url, {"Origin": PAGE}),
    ]
    for answer in answers:
        assert answer.is_success
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert listed(answer, "Access-Control-Expose-Headers") >= {header.lower() for header in READ}


async def test_a_page_may_read_what_went_wrong(serve: Serve) -> None:
    """Without these headers it sees a network error, and tries again what never can succeed."""

    async def fail(upload: Upload) -> None:
        if upload.length == 500:
            raise RuntimeError

    client = await serve(limits=Limits(max_size=1000), before_create=fail)
    url, origin = await client.upload(10, b"hello"), {"Origin": PAGE}
    answers = {
        400: await client.create(-5, origin),
        404: await client.ask("HEAD", "/files/nobody", origin),
        405: await client.ask("PUT", url, origin),
        409: await client.patch(url, 0, b"hello", origin),
        412: await client.ask("POST", headers=origin, tus=False),
        413: await client.create(1001, origin),
        415: await client.ask("PATCH", url, {"Upload-Offset": "5", **origin}),
        431: await client.create(5, {"X-Filler": "x" * 20_000, **origin}),
        500: await client.create(500, origin),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "tus-resumable" in listed(answer, "Access-Control-Expose-Headers")


async def test_who_is_no_page_hears_nothing_of_it(client: Client) -> None:
    for response in (await client.create(5), await client.ask("OPTIONS"), await client.ask("HEAD", "/files/nobody")):
        assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_credentials_are_not_allowed_unless_so_wished(client: Client) -> None:
    for response in (await client.create(5, {"Origin": PAGE}), await preflight(client, "POST")):
        assert "Access-Control-Allow-Credentials" not in response.headers


# narrowed ------------------------------------------------------------------------------------------------------------


async def test_a_listed_origin_is_named_and_others_are_not(serve: Serve) -> None:
    client = await serve(cors=Cors(origins=[PAGE, "https://second.example.org"]))
    allowed = await client.create(5, {"Origin": PAGE})
    assert allowed.headers["Access-Control-Allow-Origin"] == PAGE
    assert "origin" in listed(allowed, "Vary")
    refused = await client.create(5, {"Origin": OTHER})
    assert "Access-Control-Allow-Origin" not in refused.headers
    assert "origin" in listed(refused, "Vary")


@pytest.mark.parametrize("origin", [OTHER, "null", "https://app.example.org.evil.org", "http://app.example.org"])
async def test_an_origin_that_is_not_listed_gets_no_preflight(serve: Serve, origin: str) -> None:
    client = await serve(cors=Cors(origins=[PAGE]))
    assert "Access-Control-Allow-Origin" not in (await preflight(client, "POST", origin)).headers
    assert (await preflight(client, "POST", PAGE)).headers["Access-Control-Allow-Origin"] == PAGE


async def test_answers_that_differ_by_origin_say_so_to_caches_also_without_one(serve: Serve) -> None:
    client = await serve(cors=Cors(origins=[PAGE]))
    assert "origin" in listed(await client.create(5), "Vary")


@pytest.mark.parametrize("credentials", [{}, {"Cookie": "session=1"}, {"Authorization": "Bearer x"}])
async def test_with_credentials_the_origin_is_named_and_never_a_star(serve: Serve, credentials: dict[str, str]) -> None:
    client = await serve(cors=Cors(credentials=True))
    answers = [await client.create(5, {"Origin": PAGE, **credentials}), await preflight(client, "PATCH")]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "origin" in listed(answer, "Vary")


async def test_further_headers_can_be_allowed_and_exposed(serve: Serve) -> None:
    client = await serve(
        cors=Cors(allow_headers=["X-Tenant"], expose_headers=["X-Trace"], max_age=timedelta(seconds=60))
    )
    response = await preflight(client, "POST", PAGE, "X-Tenant", "Upload-Length")
    assert response.is_success
    assert "x-tenant" in listed(response, "Access-Control-Allow-Headers")
    assert response.headers["Access-Control-Max-Age"] == "60"
    created = await client.create(5, {"Origin": PAGE})
    assert listed(created, "Access-Control-Expose-Headers") >= {"x-trace", "location"}


async def test_cors_can_be_left_to_somebody_else(serve: Serve) -> None:
    client = await serve(cors=None)
    for response in (await client.create(5, {"Origin": PAGE}), await preflight(client, "POST")):
        assert not [name for name in response.headers if name.startswith("access-control-")]
    assert (await preflight(client, "POST")).headers["Tus-Version"] == "1.0.0"
