from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from starlette.routing import Router

from tests.web.asking import GONE, OCTETS, Client, Exchange, Field, chunk, patching
from tests.web.conftest import Serve
from tusserver import Limits, MemoryStore, Store, Tus, Upload

TUS: Field = ("Tus-Resumable", "1.0.0")


def now() -> float:
    return asyncio.get_running_loop().time()


async def path_of(client: Client, length: int | None, body: bytes = b"") -> str:
    """Make an upload and return the path of its URL."""
    return (await client.upload(length, body)).removeprefix("http://tus.test")


# every answer --------------------------------------------------------------------------------------------------------

ANSWERS: list[tuple[int, str, str, dict[str, str]]] = [
    (204, "OPTIONS", "/files", {}),
    (201, "POST", "/files", {"Upload-Length": "5"}),
    (400, "POST", "/files", {"Upload-Length": "-5"}),
    (404, "HEAD", "/files/nobody", {}),
    (404, "GET", "/files/nobody", {}),
    (405, "PUT", "/files", {}),
    (405, "FOO", "/files/nobody", {}),
    (412, "POST", "/files", {"Tus-Resumable": "0.2.2"}),
    (413, "POST", "/files", {"Upload-Length": "1001"}),
    (415, "PATCH", "/files/nobody", {"Upload-Offset": "0"}),
    (431, "POST", "/files", {"X-Filler": "x" * 20_000}),
    (500, "POST", "/files", {"Upload-Length": "500"}),
]


@pytest.mark.parametrize(("status", "method", "url", "headers"), ANSWERS)
async def test_every_answer_speaks_tus(
    serve: Serve, status: int, method: str, url: str, headers: dict[str, str]
) -> None:
    """ "The Tus-Resumable header MUST be included in every request and response except for OPTIONS requests"."""

    async def fail(upload: Upload) -> None:
        if upload.length == 500:
            raise RuntimeError

    client = await serve(limits=Limits(max_size=1000), before_create=fail)
    response = await client.ask(method, url, headers, tus="Tus-Resumable" not in headers)
    assert response.status_code == status
    assert response.headers["Tus-Resumable"] == "1.0.0"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_refusal_says_in_words_what_is_wrong_and_is_not_remembered(client: Client) -> None:
    response = await client.ask("POST", headers={"Upload-Length": "-5"})
    assert response.text.startswith("ERR_INVALID_UPLOAD_LENGTH: ")
    assert "Upload-Length" in response.text
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Content-Length"] == str(len(response.content))


async def test_a_version_that_is_not_spoken_is_answered_with_those_that_are(client: Client) -> None:
    for headers in ({}, {"Tus-Resumable": "0.2.2"}):
        response = await client.ask("POST", headers={"Upload-Length": "5", **headers}, tus=False)
        assert (response.status_code, response.headers["Tus-Version"]) == (412, "1.0.0")


async def test_an_answer_without_content_announces_none(client: Client) -> None:
    url = await client.upload(5)
    for response in (await client.patch(url, 0, b"hel"), await client.ask("OPTIONS"), await client.ask("DELETE", url)):
        assert response.status_code == 204
        assert "Content-Length" not in response.headers
        assert "Content-Type" not in response.headers


async def test_the_answer_to_head_has_neither_body_nor_content_length(client: Client) -> None:
    path = await path_of(client, 5, b"hel")
    for target, status in ((path, 200), ("/files/nobody", 404)):
        head = await Exchange(client.app, "HEAD", target, [TUS]).run()
        assert (head.status, head.body, head.header("Content-Length")) == (status, b"", None)
        assert head.header("Cache-Control") == "no-store"
        assert head.whole


async def test_a_method_that_does_not_apply_is_answered_with_those_that_do(client: Client) -> None:
    url = await client.upload(5)
    for target, allowed in (
        ("/files", {"OPTIONS", "POST"}),
        (url, {"OPTIONS", "HEAD", "PATCH", "GET", "DELETE"}),
    ):
        response = await client.ask("PUT", target)
        assert response.status_code == 405
        assert set(response.headers["Allow"].split(", ")) == allowed


# methods and paths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actual", ["POST", "PUT", "GET", "HEAD"])
async def test_the_overriding_method_counts_and_the_actual_one_does_not(client: Client, actual: str) -> None:
    url = await client.upload(5)
    response = await client.ask(
        actual,
        url,
        {"X-HTTP-Method-Override": "patch", "Upload-Offset": "0", "Content-Type": OCTETS},
        b"hello",
    )
    assert (response.status_code, response.headers["Upload-Offset"]) == (204, "5")
    assert (await client.ask("POST", url, {"X-HTTP-Method-Override": "HEAD"})).headers["Upload-Offset"] == "5"
    assert (await client.ask("POST", url, {"X-HTTP-Method-Override": "DELETE"})).status_code == 204
    assert (await client.head(url)).status_code == 404


@pytest.mark.parametrize("suffix", ["/", "?x=1", "/?x=1"])
async def test_slashes_and_queries_at_the_end_do_not_matter(client: Client, suffix: str) -> None:
    url = await client.upload(5)
    assert (await client.head(url + suffix)).status_code == 200
    response = await client.ask("POST", "/files" + suffix, {"Upload-Length": "5"})
    assert response.status_code == 201
    assert response.headers["Location"].startswith("http://tus.test/files/")
    assert "?" not in response.headers["Location"]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..", "a/b", "nul\x00", "x" * 300, "caf\u00e9", "a b", "\ufffd", "//files", "%2e%2e"]
)
@pytest.mark.parametrize("method", ["HEAD", "GET", "PATCH", "DELETE"])
async def test_a_name_that_no_upload_can_have_is_not_found(client: Client, name: str, method: str) -> None:
    exchange = Exchange(client.app, method, f"/files/{name}", [TUS], [chunk(b"", more=False)])
    exchange.scope = {"raw_path": b"/files/?"}
    assert (await exchange.run()).status == 404


# headers -------------------------------------------------------------------------------------------------------------

REPEATED = ["Upload-Length", "Upload-Metadata", "Upload-Concat", "Upload-Checksum", "Content-Type", "Upload-Offset"]


@pytest.mark.parametrize("name", [*REPEATED, "Upload-Defer-Length", "X-HTTP-Method-Override"])
async def test_a_header_that_may_stand_once_and_stands_twice_is_refused_by_name(client: Client, name: str) -> None:
    value = "POST" if name == "X-HTTP-Method-Override" else "1"
    response = await client.ask("POST", headers=[("Upload-Length", "5"), (name, value), (name, value)])
    assert response.status_code == 400
    assert name.lower() in response.text


async def test_a_version_that_stands_twice_is_none(client: Client) -> None:
    response = await client.ask("POST", headers=[TUS, ("Upload-Length", "5")])
    assert response.status_code == 412


async def test_other_headers_may_be_repeated(client: Client) -> None:
    response = await client.ask("POST", headers=[("Upload-Length", "5"), ("X-Tag", "1"), ("X-Tag", "2")])
    assert response.status_code == 201


async def test_long_metadata_passes_and_a_header_that_is_longer_still_does_not(serve: Serve) -> None:
    client = await serve(limits=Limits(header_size=17 * 1024))
    metadata = ",".join(f"key{number:03} {'YWJj' * 10}" for number in range(300))[: 16 * 1024]
    metadata = metadata.rpartition(",")[0]
    response = await client.create(5, {"Upload-Metadata": metadata})
    assert response.status_code == 201
    assert (await client.head(response.headers["Location"])).headers["Upload-Metadata"] == metadata
    for size, status in ((17 * 1024, 201), (17 * 1024 + 1, 431)):
        response = await client.create(5, {"X-Filler": "x" * size})
        assert response.status_code == status
    assert "X-Filler has 17409, and limits.header_size is 17408 bytes" in response.text


async def test_a_head_that_is_larger_than_its_limit_is_refused_by_its_longest_header(serve: Serve) -> None:
    client = await serve(limits=Limits(header_size=1000, head_size=5000, metadata_size=1000, parts=100))
    assert (await client.create(5, {f"X-{n}": "x" * 900 for n in range(4)})).status_code == 201
    refused = await client.create(5, {f"X-{n}": "x" * (900 + n) for n in range(6)})
    assert refused.status_code == 431
    assert "limits.head_size is 5000 bytes for a whole request head" in refused.text
    assert refused.text.endswith("the longest part of it is X-5\n")
    refused = await client.ask("POST", headers={"Upload-Concat": "final;" + "/files/x " * 700})
    assert (refused.status_code, "Upload-Concat" in refused.text) == (431, True)


async def test_an_app_may_be_mounted_at_any_path(store: Store) -> None:
    tus = Tus(store)
    app = Router(routes=[tus.route("/my \u65e5\u672c")])
    async with Client(app, tus, path="/my%20%E6%97%A5%E6%9C%AC") as client, tus.lifespan():
        urls = [await client.complete(part, {"Upload-Concat": "partial"}) for part in (b"hello ", b"world")]
        assert urls[0].startswith("http://tus.test/my%20%E6%97%A5%E6%9C%AC/")
        joined = await client.ask("POST", headers={"Upload-Concat": "final;" + " ".join(urls)})
        assert (await client.get(joined.headers["Location"])).content == b"hello world"


async def test_a_final_upload_may_name_as_many_parts_as_the_limit_says(client: Client) -> None:
    host = {"Host": "uploads." + "department-of-storage." * 3 + "example.org"}
    urls = [await client.upload(0, headers={"Upload-Concat": "partial", **host}) for _ in range(2)]
    assert min(map(len, urls)) > 120
    created = await client.ask("POST", headers={"Upload-Concat": "final;" + " ".join(urls * 500), **host})
    assert created.status_code == 201, created.text
    refused = await client.ask("POST", headers={"Upload-Concat": "final;" + " ".join(urls * 501), **host})
    assert refused.status_code == 400


async def test_bytes_that_are_no_text_break_nothing(client: Client) -> None:
    bad: list[Field] = [("X-Odd", b"\xff\xfe\x00"), ("Upload-Length", "5")]
    assert (await Exchange(client.app, "POST", "/files", [TUS, *bad]).run()).status == 201
    metadata: list[Field] = [("Upload-Metadata", b"k\xff YQ=="), ("Upload-Length", "5")]
    assert (await Exchange(client.app, "POST", "/files", [TUS, *metadata]).run()).status == 400


@pytest.mark.parametrize("name", ["Upload-Length", "Upload-Offset"])
@pytest.mark.parametrize(
    "value", ["", "-1", "+5", "5.0", "0x5", "1e3", "5 5", "abc", "007", "\u0665", str(2**63), "9" * 400]
)
async def test_a_number_that_is_none_is_refused(client: Client, name: str, value: str) -> None:
    method, path = ("POST", "/files") if name == "Upload-Length" else ("PATCH", await path_of(client, 5))
    headers = [TUS, ("Content-Type", OCTETS), (name, value.encode())]
    exchange = await Exchange(client.app, method, path, headers, [chunk(b"", more=False)]).run()
    assert exchange.status == 400
    assert name.encode() in exchange.body


async def test_blanks_around_a_number_are_no_part_of_it(client: Client) -> None:
    exchange = await Exchange(client.app, "POST", "/files", [TUS, ("Upload-Length", " \t5 ")]).run()
    assert exchange.status == 201


# errors of this server ------------------------------------------------------------------------------------------------


async def test_an_error_of_ours_tells_the_log_everything_and_the_client_nothing(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(upload: Upload) -> None:
        raise RuntimeError("the secret of /srv/secret")

    client = await serve(before_create=fail)
    with caplog.at_level(logging.ERROR):
        response = await client.create(5)
    assert response.status_code == 500
    assert response.text == "ERR_INTERNAL_SERVER_ERROR: internal server error\n"
    assert "the secret of /srv/secret" in caplog.text


async def test_a_callback_that_fails_at_the_end_is_answered_with_500_and_called_again(serve: Serve) -> None:
    calls = 0

    async def fail_once(upload: Upload) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("the secret")

    client = await serve(on_finished=fail_once)
    url = await client.upload(5)
    response = await client.patch(url, 0, b"hello")
    assert (response.status_code, response.headers["Retry-After"]) == (500, "1")
    assert "secret" not in response.text
    assert "Upload-Expires" not in response.headers
    assert (await client.patch(url, 5)).status_code == 204
    assert (await client.patch(url, 5)).status_code == 204
    assert calls == 2


# clients that leave --------------------------------------------------------------------------------------------------


async def test_bytes_of_a_client_that_went_away_are_kept(client: Client) -> None:
    path = await path_of(client, 11)
    await Exchange(client.app, "PATCH", path, patching(0, 11), [chunk(b"hel"), chunk(b"lo"), GONE]).run()
    assert (await client.head(path)).headers["Upload-Offset"] == "5"


async def test_a_client_that_went_away_is_answered_all_the_same(client: Client) -> None:
    """Nobody reads it; but middleware around us takes an app that says nothing for a broken one."""
    path = await path_of(client, 11)
    exchange = await Exchange(client.app, "PATCH", path, patching(0, 11), [chunk(b"hel"), GONE]).run()
    assert exchange.whole


# the end of a request ------------------------------------------------------------------------------------------------


async def test_a_body_that_was_read_leaves_the_connection_open(client: Client) -> None:
    path = await path_of(client, 200_000)
    data = bytes(100_000)
    for offset, messages in ((0, [chunk(data, more=False)]), (100_000, [chunk(data), chunk(b"", more=False)])):
        exchange = await Exchange(client.app, "PATCH", path, patching(offset, 100_000), messages).run()
        assert (exchange.status, exchange.header("Connection")) == (204, None)


async def test_a_small_body_that_nobody_wants_leaves_the_connection_open(client: Client) -> None:
    path = await path_of(client, 11)
    exchange = await Exchange(client.app, "PATCH", path, patching(3, 5), [chunk(b"hello", more=False)]).run()
    assert (exchange.status, exchange.header("Connection"), exchange.received) == (409, None, 0)


@pytest.mark.parametrize("length", [1 << 20, None])
async def test_a_large_body_that_nobody_wants_is_answered_at_once_and_thrown_away(
    client: Client, length: int | None
) -> None:
    path = await path_of(client, 2 << 20)
    exchange = Exchange(client.app, "PATCH", path, patching(3, length), [chunk(b"x" * 1000)])
    running = asyncio.create_task(exchange.run())
    await exchange.hungry.wait()
    assert (exchange.status, exchange.header("Connection")) == (409, "close")
    assert exchange.header("Content-Length") == str(len(exchange.body))
    assert not exchange.whole
    exchange.feed(chunk(b"x" * 1000), chunk(b"x" * 1000, more=False))
    await running
    assert exchange.whole


async def test_a_client_that_stopped_sending_is_not_waited_for(client: Client) -> None:
    path, began = await path_of(client, 2 << 20), now()
    exchange = await Exchange(client.app, "PATCH", path, patching(3, 1 << 20), [chunk(b"x" * 1000)]).run()
    assert exchange.whole
    assert now() - began == pytest.approx(0.5)


async def test_a_client_that_never_stops_sending_is_not_listened_to_for_ever(client: Client) -> None:
    path, began = await path_of(client, 2 << 20), now()
    exchange = Exchange(client.app, "PATCH", path, patching(3, 1 << 20))
    running = asyncio.create_task(exchange.run())
    while not running.done():
        exchange.feed(chunk(b"x"))
        await asyncio.sleep(0.1)
    assert exchange.whole
    assert now() - began == pytest.approx(5.0, abs=0.2)


async def test_a_server_that_stops_listens_to_nobody_for_long(client: Client) -> None:
    path = await path_of(client, 2 << 20)
    exchange = Exchange(client.app, "PATCH", path, patching(3, 1 << 20), [chunk(b"x")])
    running = asyncio.create_task(exchange.run())
    await exchange.hungry.wait()
    began = now()
    client.tus.close()
    await running
    assert now() - began <= 0.25


async def test_a_client_that_asks_first_is_refused_without_its_body(client: Client) -> None:
    """RFC 9110 10.1.1: a final status instead of 100; what follows may be the body or a new request, so it is over."""
    path = await path_of(client, 2 << 20)
    headers = patching(3, 1 << 20, ("Expect", "100-continue"))
    exchange = await Exchange(client.app, "PATCH", path, headers).run()
    assert (exchange.status, exchange.header("Connection")) == (409, "close")
    assert (exchange.received, exchange.whole) == (0, True)


async def test_a_client_that_asks_first_and_is_welcome_is_read(client: Client) -> None:
    path = await path_of(client, 5)
    headers = patching(0, 5, ("Expect", "100-continue"))
    exchange = await Exchange(client.app, "PATCH", path, headers, [chunk(b"hello", more=False)]).run()
    assert (exchange.status, exchange.header("Connection")) == (204, None)


async def test_a_request_that_the_stop_of_the_server_cut_says_so_and_is_over(client: Client) -> None:
    path = await path_of(client, 11)
    exchange = Exchange(client.app, "PATCH", path, patching(0, 11), [chunk(b"hello")])
    running = asyncio.create_task(exchange.run())
    await exchange.hungry.wait()
    client.tus.close()
    await running
    assert (exchange.status, exchange.header("Connection"), exchange.header("Retry-After")) == (503, "close", "1")
    assert exchange.body.startswith(b"ERR_SERVER_SHUTDOWN: ")
    assert (await client.head(path)).headers["Upload-Offset"] == "5"
    assert (await client.patch(path, 5, b" world")).status_code == 503


async def test_an_interrupted_request_says_so_and_is_over(client: Client) -> None:
    path = await path_of(client, 11)
    exchange = Exchange(client.app, "PATCH", path, patching(0, 11), [chunk(b"hello")])
    running = asyncio.create_task(exchange.run())
    await exchange.hungry.wait()
    assert (await client.ask("DELETE", path)).status_code == 204
    await running
    assert (exchange.status, exchange.header("Connection")) == (423, "close")
    assert exchange.body.startswith(b"ERR_UPLOAD_INTERRUPTED: ")


async def test_a_creation_whose_body_falls_silent_is_answered_with_its_url(client: Client) -> None:
    headers = [("Upload-Length", "11"), *patching(0, 11)[:1], *patching(0, 11)[2:]]
    exchange = await Exchange(client.app, "POST", "/files", headers, [chunk(b"hello")]).run()
    assert (exchange.status, exchange.header("Connection"), exchange.header("Upload-Offset")) == (201, "close", "5")
    location = exchange.header("Location")
    assert location is not None
    assert (await client.head(location)).headers["Upload-Offset"] == "5"


# other servers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["Upload-Checksum"], ["Upload-Checksum", "X-Other"], ["X-Other", "Upload-Checksum"]])
async def test_a_checksum_that_a_server_cannot_deliver_is_refused_before_its_body(
    client: Client, names: list[str]
) -> None:
    path = await path_of(client, 5)
    headers = patching(0, None, *[("Trailer", name) for name in names])
    exchange = await Exchange(client.app, "PATCH", path, headers).run()
    assert (exchange.status, exchange.body.split(b":")[0]) == (400, b"ERR_INVALID_CHECKSUM")
    assert (await client.head(path)).headers["Upload-Offset"] == "0"


@pytest.mark.parametrize("version", ["2", "3"])
async def test_newer_versions_of_http_frame_bodies_by_themselves(client: Client, version: str) -> None:
    """No Content-Length and no Transfer-Encoding, and no Connection header in the answer."""
    path, scope = await path_of(client, 5), {"http_version": version}
    headers = patching(0, None)[:-1]
    assert all(name not in ("Transfer-Encoding", "Content-Length") for name, _ in headers)
    for offset, messages, status in (
        (3, [chunk(b"hello", more=False)], 409),
        (0, [chunk(b"hel"), chunk(b"lo", more=False)], 204),
    ):
        headers[1] = ("Upload-Offset", str(offset))
        exchange = await Exchange(client.app, "PATCH", path, headers, messages, scope).run()
        assert (exchange.status, exchange.header("Connection")) == (status, None)
    assert (await client.get(path)).content == b"hello"
    created = await Exchange(
        client.app, "POST", "/files", [TUS, ("Upload-Length", "5")], [chunk(b"", more=False)], scope
    ).run()
    assert (created.status, created.header("Connection")) == (201, None)


@pytest.mark.parametrize("make", [dict, lambda: {"extensions": None}, lambda: {"extensions": {}}])
async def test_a_server_that_offers_nothing_special_is_good_enough(
    client: Client, make: Callable[[], dict[str, Any]]
) -> None:
    path = await path_of(client, 5)
    messages = [chunk(b"hello", more=False)]
    exchange = await Exchange(client.app, "PATCH", path, patching(0, 5), messages, make()).run()
    assert exchange.status == 204
    options = await Exchange(client.app, "OPTIONS", "/files", [], scope=make()).run()
    assert "checksum-trailer" not in (options.header("Tus-Extension") or "")


async def test_a_store_that_breaks_is_not_the_end_of_the_upload(serve: Serve) -> None:
    """On any 4xx but 423 to a HEAD clients forget the upload."""

    class Broken(MemoryStore):
        async def load(self, upload_id: object, fence: int = 0) -> Upload:
            raise OSError(5, "input/output error")

    client = await serve(store=Broken())
    url = (await client.create(5)).headers["Location"]
    response = await client.head(url)
    assert (response.status_code, int(response.headers["Retry-After"]) > 0) == (423, True)
    assert (await client.patch(url, 0, b"hello")).status_code == 500
