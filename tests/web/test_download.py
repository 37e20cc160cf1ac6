from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.support.tus import metadata
from tests.web.asking import Client, Exchange
from tests.web.conftest import Serve
from tusserver import Expiry, Features, FileStore
from tusserver.protocol.messages import Content
from tusserver.protocol.upload import Upload

DATA = b"0123456789"

only_files = pytest.mark.parametrize("store", ["file"], indirect=True)
"""For what only a store of files can show."""


async def download(client: Client, data: bytes = DATA, **described: str | bytes) -> tuple[str, dict[str, str]]:
    """Upload and download; return the URL and the headers of the download."""
    url = await client.complete(data, {"Upload-Metadata": metadata(**described)} if described else None)
    response = await client.get(url)
    assert (response.status_code, response.content) == (200, data)
    return url, dict(response.headers)


# what can be had -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [DATA, b"", bytes(range(256)) * 4000])
async def test_a_finished_upload_comes_back_byte_for_byte(client: Client, data: bytes) -> None:
    _, headers = await download(client, data)
    assert headers["content-length"] == str(len(data))
    assert headers["tus-resumable"] == "1.0.0"


async def test_a_joined_upload_comes_back_as_a_whole(client: Client) -> None:
    parts = [await client.complete(data, {"Upload-Concat": "partial"}) for data in (b"hello ", b"world")]
    response = await client.ask("POST", headers={"Upload-Concat": f"final;{' '.join(parts)}"})
    assert (await client.get(response.headers["Location"])).content == b"hello world"


async def test_there_is_nothing_to_download_before_the_end(client: Client) -> None:
    url = await client.upload(10, b"01234")
    response = await client.get(url)
    assert (response.status_code, b"01234" in response.content) == (423, False)
    assert response.text.startswith("ERR_INCOMPLETE_UPLOAD: ")
    told = {name: response.headers[name] for name in ("Upload-Offset", "Upload-Length", "Cache-Control")}
    assert told == {"Upload-Offset": "5", "Upload-Length": "10", "Cache-Control": "no-store"}
    assert int(response.headers["Retry-After"]) > 0


async def test_a_download_tells_what_head_tells_and_is_asked_for_each_time(client: Client) -> None:
    url = await client.complete(DATA)
    got, head = await client.get(url), await client.head(url)
    for name in ("Upload-Offset", "Upload-Length", "Tus-Resumable"):
        assert got.headers[name] == head.headers[name]
    assert (got.headers["Cache-Control"], head.headers["Cache-Control"]) == ("private, no-cache", "no-store")
    again = await client.get(url, {"If-None-Match": got.headers["ETag"]})
    assert (again.status_code, again.headers["Cache-Control"]) == (304, "private, no-cache")


async def test_head_without_a_version_is_answered_as_get_is(client: Client) -> None:
    """As `curl -I` and checkers of links ask."""
    url = await client.complete(DATA)
    got, head = await client.get(url), await client.ask("HEAD", url, {"Tus-Resumable": ""})
    assert head.status_code == 412
    plain = await client.ask("HEAD", url, tus=False)
    assert (plain.status_code, plain.content) == (200, b"")
    assert plain.headers["Content-Length"] == str(len(DATA))
    assert plain.headers["Accept-Ranges"] == "bytes"
    for name in ("ETag", "Content-Type", "Accept-Ranges", "Upload-Offset"):
        assert plain.headers.get(name) == got.headers.get(name)
    assert (await client.ask("HEAD", await client.upload(10, b"01234"), tus=False)).status_code == 423
    assert (await client.ask("HEAD", "/files/nobody", tus=False)).status_code == 404


async def test_an_upload_that_was_removed_or_never_there_is_not_found(client: Client) -> None:
    url = await client.complete(DATA)
    await client.ask("DELETE", url)
    for gone in (url, "/files/nobody"):
        assert (await client.get(gone)).status_code == 404


async def test_an_upload_whose_retention_is_over_is_gone(serve: Serve) -> None:
    client = await serve(expiry=Expiry(keep_finished=timedelta(0)))
    assert (await client.get(await client.complete(DATA))).status_code == 404


async def test_downloads_can_be_switched_off(serve: Serve) -> None:
    client = await serve(features=Features(download=False))
    response = await client.get(await client.complete(DATA))
    assert (response.status_code, "GET" in response.headers["Allow"]) == (405, False)


@only_files
async def test_a_finished_file_can_be_had_from_its_readable_place(serve: Serve, tmp_path: Path) -> None:
    store = FileStore(tmp_path / "named", finished_folder=tmp_path / "inbox")
    client = await serve(store=store)
    await download(client, filename="photo.raw")
    assert (tmp_path / "inbox" / "photo.raw").read_bytes() == DATA


class Vanishing(FileStore):
    """A file is deleted in the moment between the look at its record and its download."""

    async def content(self, upload: Upload) -> Content:
        content = await super().content(upload)
        await self.remove(upload.id)
        return content


@only_files
async def test_a_file_that_goes_away_in_the_last_moment_is_not_found(serve: Serve, tmp_path: Path) -> None:
    client = await serve(store=Vanishing(tmp_path / "data"))
    response = await client.get(await client.complete(DATA))
    assert (response.status_code, response.headers["Tus-Resumable"]) == (404, "1.0.0")
    assert str(tmp_path) not in response.text


# how it is described -------------------------------------------------------------------------------------------------


async def test_a_download_is_named_as_its_client_said(client: Client) -> None:
    _, headers = await download(client, filename="report 1.txt", filetype="text/plain")
    assert headers["content-type"].startswith("text/plain")
    assert headers["content-disposition"] == "inline; filename=\"report 1.txt\"; filename*=UTF-8''report%201.txt"


@pytest.mark.parametrize(
    ("name", "plain", "full"),
    [
        ("na\u00efve \u65e5\u672c.txt", "na_ve __.txt", "na%C3%AFve%20%E6%97%A5%E6%9C%AC.txt"),
        ('a"; filename="evil.exe', "a__ filename=_evil.exe", None),
        ("a\r\nSet-Cookie: x=1", "a_Set-Cookie_ x=1", None),
        ("../../etc/passwd", "etc_passwd", "etc_passwd"),
        ("percent%41.txt", "percent_41.txt", "percent%2541.txt"),
    ],
)
async def test_no_name_can_do_harm(client: Client, name: str, plain: str, full: str | None) -> None:
    _, headers = await download(client, filename=name)
    assert "set-cookie" not in headers
    kind, first, second = headers["content-disposition"].split("; ", 2)[0], *_names(headers["content-disposition"])
    assert (kind, first.replace(";", "_")) == ("attachment", plain)
    if full is not None:
        assert second == full


def _names(header: str) -> tuple[str, str]:
    """Both names in a Content-Disposition."""
    start = header.index('filename="') + len('filename="')
    end = header.index("\"; filename*=UTF-8''")
    return header[start:end], header[end + len("\"; filename*=UTF-8''") :]


async def test_bytes_that_are_no_text_break_no_name(client: Client) -> None:
    _, headers = await download(client, filename=b"\xff\x00\r\nX-Evil: 1")
    assert "x-evil" not in headers


@pytest.mark.parametrize(
    "kind",
    ["text/html", "image/svg+xml", "text/javascript", "application/xhtml+xml", "text/xml", "TEXT/HTML", "text/css"],
)
async def test_what_a_browser_would_run_is_saved_instead(client: Client, kind: str) -> None:
    _, headers = await download(client, b"<script>alert(1)</script>", filename="page", filetype=kind)
    assert headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize("kind", ["text/javascript", "text/css", "TEXT/HTML", "image/svg+xml", "made/up"])
async def test_what_is_not_known_to_be_harmless_goes_out_as_octets_to_get_and_head(client: Client, kind: str) -> None:
    """An attachment too is a script for whoever writes `<script src>`, if its type says so."""
    url, told = await download(client, b"alert(1)", filename="code.js", filetype=kind)
    for headers in (told, (await client.ask("HEAD", url, tus=False)).headers):
        assert headers["content-type"] == "application/octet-stream"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize("kind", ["image/png", "video/mp4", "audio/mpeg", "application/pdf", "text/plain"])
async def test_what_a_browser_only_shows_is_shown(client: Client, kind: str) -> None:
    _, headers = await download(client, filename="page", filetype=kind)
    assert headers["content-disposition"].startswith("inline")
    assert headers["content-type"].startswith(kind)


@pytest.mark.parametrize(
    "kind",
    [
        *("", "nonsense", "text/html\r\nX-Evil: 1", "text/html; charset=utf-7", "a/b/c", "\u65e5/\u672c", "/"),
        *("video/webm;codecs=vp8\r\nX-Evil: 1", 'video/webm;codecs="vp8\r\nX-Evil: 1"', "video/webm;codecs"),
        *(
            'video/webm;codecs="vp8',
            'video/webm;codecs="vp8" vp9',
            "video/webm;codecs=vp8, text/html",
            "video/webm vp8",
        ),
        *('video/webm;codecs="\u65e5"', 'video/webm;codecs="\0"', "video/webm;=vp8", "video/webm;a b=c", "; a=b"),
        *('text/plain;charset="utf-7"', "text/plain; x=1; CHARSET=UTF-7", 'text/plain; charset="utf\\-7"'),
        *("text/plain;charset=utf-8;charset=utf-7", "text/html;charset=iso-2022-jp", "text/plain;charset=nonsense"),
        *("multipart/byteranges; boundary=x", "multipart/x-mixed-replace;boundary=x", "video/webm;a=" + "b" * 1000),
    ],
)
async def test_a_type_that_is_none_is_octets(client: Client, kind: str) -> None:
    _, headers = await download(client, filetype=kind)
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"] == "attachment"
    assert "x-evil" not in headers


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        *(("video/webm;codecs=vp8,opus", True), ("text/plain;charset=utf-8,utf-7", None)),
        *(("video/webm;codecs=vp8", True), ('video/mp4; codecs="avc1.42E01E, mp4a.40.2"', True)),
        *(("audio/ogg; codecs=opus; x=y", True), ("image/png;a", None), ("text/plain; charset=iso-8859-1", True)),
        *(("application/pdf ; version=1.7", True), ("text/html; charset=UTF-8", None), ("image/svg+xml;a=b", None)),
        *(('application/zip; a="b\\"c; d"', False), ('application/xhtml+xml; x="image/png"', None)),
    ],
)
async def test_the_parameters_of_a_type_are_kept_and_decide_nothing(
    client: Client, kind: str, shown: bool | None
) -> None:
    _, headers = await download(client, filetype=kind)
    assert headers["content-type"] == (kind if shown is not None else "application/octet-stream")
    assert headers["content-disposition"] == ("inline" if shown else "attachment")


async def test_the_type_itself_is_told_in_lower_case_and_its_parameters_as_they_came(client: Client) -> None:
    _, headers = await download(client, filetype=" Video/MP4; Codecs=AVC1 ;")
    assert headers["content-type"] == "video/mp4; Codecs=AVC1"
    _, headers = await download(client, filetype="text/plain; format=flowed")
    assert headers["content-type"] == "text/plain; format=flowed; charset=utf-8"


async def test_a_browser_is_told_to_guess_nothing_and_to_run_nothing(client: Client) -> None:
    url, headers = await download(client, filetype="image/png")
    for conditions in ({}, {"If-None-Match": headers["etag"]}, {"Range": "bytes=50-60"}, {"Range": "bytes=2-4"}):
        answer = (await client.get(url, conditions)).headers
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert answer["Tus-Resumable"] == "1.0.0"
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"


# a part of it, or not again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "told", "content"),
    [
        ("bytes=2-5", "bytes 2-5/10", b"2345"),
        ("bytes=7-", "bytes 7-9/10", b"789"),
        ("bytes=-3", "bytes 7-9/10", b"789"),
        ("bytes=0-0", "bytes 0-0/10", b"0"),
        ("bytes=8-500", "bytes 8-9/10", b"89"),
    ],
)
async def test_a_range_can_be_had(client: Client, asked: str, told: str, content: bytes) -> None:
    url, _ = await download(client)
    response = await client.get(url, {"Range": asked})
    assert (response.status_code, response.headers["Content-Range"], response.content) == (206, told, content)
    assert response.headers["Content-Length"] == str(len(content))


async def test_several_ranges_can_be_had(client: Client) -> None:
    url, _ = await download(client)
    response = await client.get(url, {"Range": "bytes=0-1,8-9"})
    assert response.status_code == 206
    assert response.headers["Content-Type"].startswith("multipart/byteranges")
    assert b"\r\n01\r\n" in response.content
    assert b"\r\n89\r\n" in response.content


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=50-60", "bytes=100-"])
async def test_a_range_beyond_the_end_cannot_be_had(client: Client, asked: str) -> None:
    url, _ = await download(client)
    response = await client.get(url, {"Range": asked})
    assert (response.status_code, response.headers["Content-Range"]) == (416, "bytes */10")


@pytest.mark.parametrize("asked", ["bytes=0-1", "bytes=0-1,8-9", "bytes=50-60"])
async def test_head_knows_no_ranges(client: Client, asked: str) -> None:
    """RFC 9110 14.2: "A server MUST ignore a Range header field received with" any method but GET."""
    url, _ = await download(client)
    response = await client.ask("HEAD", url, {"Range": asked}, tus=False)
    assert (response.status_code, response.headers["Content-Length"]) == (200, "10")


@pytest.mark.parametrize(
    "asked",
    [
        *("lines=1-2", "bytes", "bytes=", "bytes=x-y", "bytes=5-2", "\u00fc=1", "bytes=-", "bytes=1-2-3", "bytes=+1-2"),
        *("bytes=0-1,x", "bytes=\u00b2-3", f"bytes={'9' * 5000}-", "bytes=" + ",".join(["0-1"] * 101)),
    ],
)
async def test_a_range_that_is_none_is_as_if_it_were_not_there(client: Client, asked: str) -> None:
    """RFC 9110 14.2: "a server MAY ignore the Range header field", and MUST one of a unit it does not know."""
    url, _ = await download(client)
    headers = [("Range", asked)]
    exchange = await Exchange(client.app, "GET", url.removeprefix("http://tus.test"), headers).run()
    assert (exchange.status, exchange.body) == (200, DATA)


async def test_a_range_is_given_only_of_what_the_client_has_the_rest_of(client: Client) -> None:
    url, headers = await download(client)
    for validator, status in ((headers["etag"], 206), ('"another"', 200), (headers["last-modified"], 206)):
        response = await client.get(url, {"Range": "bytes=2-5", "If-Range": validator})
        assert response.status_code == status


async def test_what_a_client_has_already_is_not_sent_again(client: Client) -> None:
    url, headers = await download(client)
    for tags in (headers["etag"], f"W/{headers['etag']}", f'"other", {headers["etag"]}', "*"):
        response = await client.get(url, {"If-None-Match": tags})
        assert (response.status_code, response.content, response.headers["ETag"]) == (304, b"", headers["etag"])
    assert (await client.get(url, {"If-None-Match": '"other"'})).status_code == 200


async def test_every_upload_has_its_own_tag_and_the_date_of_its_creation(client: Client) -> None:
    (_, one), (_, two) = await download(client), await download(client)
    assert one["etag"] != two["etag"]
    age = datetime.now(UTC) - parsedate_to_datetime(one["last-modified"])
    assert timedelta(0) <= age < timedelta(minutes=1)
