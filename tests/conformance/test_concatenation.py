"""Section N: concatenation, where parts uploaded side by side become one."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.conformance.conftest import Configured, Embed, Offers
from tests.conformance.expired import Expired
from tests.conformance.profiles import PROXIED, SPARTAN
from tests.support.tus import OCTETS, Tus, eventually


@pytest.fixture(autouse=True)
def concatenating(offers: Offers) -> None:
    offers("concatenation")


@pytest.fixture
def parts(tus: Tus) -> tuple[str, str]:
    """Two complete parts: 01234 and 56789."""
    return tus.part(b"01234"), tus.part(b"56789")


def path(url: str) -> str:
    """A URL without scheme and host, as aiotus names parts."""
    return urlsplit(url).path


def joined(tus: Tus, *parts: str) -> str:
    """Join parts and return the URL of the final upload."""
    answer = tus.join(*parts)
    assert answer.status == 201
    return tus.located(answer)


def test_n1_a_partial_upload_is_told_as_such(tus: Tus) -> None:
    """tus 1.0.0: "The Server MUST include the Upload-Concat header in the response" to HEAD "with its value as
    received".
    """
    answer = tus.create(10, {"Upload-Concat": "partial"})
    assert answer.status == 201
    head = tus.head(tus.located(answer))
    assert head["Upload-Concat"] == "partial"
    assert head["Upload-Offset"] == "0"


def test_n2_two_parts_become_one(tus: Tus, parts: tuple[str, str]) -> None:
    """tus 1.0.0: "The length of the final upload MUST be the sum of the length of all partial uploads"."""
    url = joined(tus, *map(path, parts))
    head = tus.head(url)
    assert (head["Upload-Offset"], head["Upload-Length"]) == ("10", "10")
    assert tus.holds(url, b"0123456789")


@pytest.mark.parametrize("form", ["absolute", "relative"])
def test_n3_the_list_comes_back_as_it_was_sent(tus: Tus, parts: tuple[str, str], form: str) -> None:
    """tus 1.0.0: "with its value as received in the upload creation request"."""
    urls = [url if form == "absolute" else path(url) for url in parts]
    assert tus.head(joined(tus, *urls))["Upload-Concat"] == f"final;{' '.join(urls)}"


def test_n4_parts_are_joined_in_the_order_of_the_list(tus: Tus, parts: tuple[str, str]) -> None:
    """tus 1.0.0: "The concatenation MUST be in the order of the list"."""
    first, second = parts
    assert tus.holds(joined(tus, second, first), b"5678901234")


def test_n5_a_part_may_stand_twice(tus: Tus, parts: tuple[str, str]) -> None:
    """tus 1.0.0: "A partial upload MAY be used multiple times"."""
    assert tus.holds(joined(tus, parts[0], parts[0]), b"0123401234")


def test_n6_a_part_may_stand_in_two_lists(tus: Tus, parts: tuple[str, str]) -> None:
    assert tus.holds(joined(tus, *parts), b"0123456789")
    assert tus.holds(joined(tus, *parts), b"0123456789")


def test_n7_a_part_may_be_named_by_its_full_url(tus: Tus, parts: tuple[str, str]) -> None:
    assert all("://" in url for url in parts)
    assert tus.holds(joined(tus, *parts), b"0123456789")


def test_n8_a_part_may_be_named_by_another_host(tus: Tus, parts: tuple[str, str]) -> None:
    """A proxy may change Location and not Host, or the other way round."""
    assert tus.holds(joined(tus, parts[0], f"https://elsewhere.example{path(parts[1])}"), b"0123456789")


@pytest.mark.parametrize("form", ["{id}", "./{id}", "{id}/", "{folder}/{id}", "./{folder}/{id}", "/{folder}/{encoded}"])
def test_n8_a_part_may_be_named_relative_to_the_collection(tus: Tus, parts: tuple[str, str], form: str) -> None:
    urls = []
    for url in parts:
        folder, _, name = path(url).strip("/").rpartition("/")
        form = form if form[0] == "/" else form.replace("{folder}", folder.rpartition("/")[2])
        urls.append(form.format(id=name, folder=folder, encoded=f"%{ord(name[0]):02X}{name[1:]}"))
    assert tus.holds(joined(tus, *urls), b"0123456789")


def test_n9_a_final_upload_takes_no_bytes(tus: Tus, parts: tuple[str, str]) -> None:
    """tus 1.0.0: "The Server MUST respond with the 403 Forbidden status to PATCH requests against a final
    upload URL and MUST NOT modify the final or its partial uploads".
    """
    url = joined(tus, *parts)
    assert tus.patch(url, 10, b"more").status == 403
    assert tus.patch(url, 0, b"other").status == 403
    assert tus.holds(url, b"0123456789")
    assert [tus.offset(part) for part in parts] == [5, 5]


def test_n10_the_length_of_a_final_upload_is_not_the_clients_to_say(tus: Tus, parts: tuple[str, str]) -> None:
    """tus 1.0.0: "The Client MUST NOT include the Upload-Length header in the final upload creation"."""
    answer = tus.join(*parts, headers={"Upload-Length": "99"})
    assert answer.status in (201, 400)
    if answer.status == 201:
        assert tus.head(tus.located(answer))["Upload-Length"] == "10"


def test_n11_an_unfinished_part_is_refused_where_waiting_is_not_offered(
    tus: Tus, foreign: str | None, configured: Configured
) -> None:
    """tus 1.0.0: "The Client MAY send the concatenation request while the partial uploads are still in
    progress. This feature MUST be explicitly announced by the Server by adding concatenation-unfinished".
    """
    if foreign and "concatenation-unfinished" in tus.options().listed("Tus-Extension"):
        pytest.skip("needs a server configured without concatenation-unfinished")
    client = tus if foreign else configured(PROXIED)[0]
    part = client.part(b"567", 5)
    answer = client.join(client.part(b"01234"), part)
    assert answer.status == 400
    assert answer["Location"] is None
    assert client.patch(part, 3, b"89").status == 204


def test_n12_a_final_upload_may_wait_for_its_parts(tus: Tus, offers: Offers) -> None:
    """tus 1.0.0: "The response to a HEAD request for a final upload SHOULD NOT contain the Upload-Offset header
    unless the concatenation has been successfully finished. After successful concatenation, the Upload-
    Offset and Upload- Length MUST be set and their values MUST be equal".
    """
    offers("concatenation-unfinished")
    done, waiting = tus.part(b"01234"), tus.part(b"567", 5)
    url = joined(tus, done, waiting)
    head = tus.head(url)
    assert head.status == 200
    assert head["Upload-Offset"] is None
    assert head["Upload-Length"] == "10"
    assert tus.patch(url, 0, b"01234").status == 403
    assert tus.patch(waiting, 3, b"89").status == 204
    assert tus.reaches(url, 10)
    assert tus.head(url)["Upload-Length"] == "10"
    assert tus.holds(url, b"0123456789")


def test_n12_a_final_upload_may_wait_for_a_length(tus: Tus, offers: Offers) -> None:
    offers("concatenation-unfinished")
    offers("creation-defer-length")
    waiting = tus.upload(None, {"Upload-Concat": "partial"}, b"567")
    url = joined(tus, tus.part(b"01234"), waiting)
    head = tus.head(url)
    assert (head["Upload-Offset"], head["Upload-Length"]) == (None, None)
    assert tus.patch(waiting, 3, b"89", {"Upload-Length": "5"}).status == 204
    assert tus.reaches(url, 10)
    assert tus.holds(url, b"0123456789")


def test_n13_an_unknown_part_is_refused(tus: Tus, parts: tuple[str, str]) -> None:
    """Not by 404: clients would believe that the upload they are making is gone."""
    answer = tus.join(parts[0], tus.child("0123456789abcdef"))
    assert answer.status == 400
    assert answer["Location"] is None


def test_n14_a_regular_upload_is_no_part(tus: Tus, parts: tuple[str, str]) -> None:
    assert tus.join(parts[0], tus.complete(b"56789")).status == 400


def test_n15_a_final_upload_is_no_part(tus: Tus, parts: tuple[str, str]) -> None:
    assert tus.join(parts[0], joined(tus, *parts)).status == 400


def test_n16_parts_that_are_too_large_together_are_refused(reachable: tuple[Tus, int]) -> None:
    """tus 1.0.0: "If the length of the upload exceeds the maximum … the Server MUST respond with the 413"."""
    tus, size = reachable
    half = bytes(size // 2 + 1)
    assert tus.join(tus.part(half), tus.part(half)).status == 413


def test_n17_a_final_upload_has_its_own_metadata(tus: Tus) -> None:
    """tus 1.0.0: "The Server MUST NOT transfer metadata of the partial uploads to the final"."""
    part = tus.upload(5, {"Upload-Concat": "partial", "Upload-Metadata": "of cGFydA=="}, b"01234")
    bare = joined(tus, part)
    assert tus.head(bare)["Upload-Metadata"] is None
    answer = tus.join(part, headers={"Upload-Metadata": "of ZmluYWw="})
    assert tus.head(tus.located(answer))["Upload-Metadata"] == "of ZmluYWw="


@pytest.mark.parametrize("value", ["final", "final;", "final; ", "foo", "Partial"])
def test_n18_anything_else_is_refused(tus: Tus, value: str) -> None:
    length = {} if value.startswith("final") else {"Upload-Length": "10"}
    answer = tus.post({"Upload-Concat": value, **length})
    assert answer.status == 400
    assert answer["Location"] is None


def test_n19_a_part_may_defer_its_length(tus: Tus, offers: Offers) -> None:
    offers("creation-defer-length")
    part = tus.upload(None, {"Upload-Concat": "partial"}, b"01234")
    assert tus.patch(part, 5, b"56789", {"Upload-Length": "10"}).status == 204
    assert tus.holds(joined(tus, part), b"0123456789")


def test_n20_a_complete_part_is_not_told_as_finished(embed: Embed) -> None:
    """tus 1.0.0: "The Server SHOULD NOT process these partial uploads until they are concatenated"."""
    site = embed()
    site.tus.part(b"01234")
    site.tus.part(b"")
    assert site.finished == []


def test_n21_a_final_upload_is_told_as_finished_once(embed: Embed) -> None:
    site = embed()
    done, waiting = site.tus.part(b"01234"), site.tus.part(b"567", 5)
    url = joined(site.tus, done, waiting)
    assert site.finished == []
    site.tus.patch(waiting, 3, b"89")
    assert site.tus.get(url).body == b"0123456789"
    joined(site.tus, done)
    assert [(upload.length, upload.offset) for upload in site.finished] == [(10, 10), (5, 5)]


def test_n22_parts_may_go_with_success_and_not_before(configured: Configured) -> None:
    """tus 1.0.0: "The Server MAY delete partial uploads after concatenation"."""
    tus, _ = configured(PROXIED)
    parts = tus.part(b"01234"), tus.part(b"56789")
    assert tus.join(*parts, tus.child("0123456789abcdef")).status == 400
    assert [tus.head(part).status for part in parts] == [200, 200]
    url = joined(tus, *parts)
    assert [tus.head(part).status for part in parts] == [404, 404]
    assert tus.holds(url, b"0123456789")


@pytest.mark.parametrize(
    "name",
    ["../", "../../etc/passwd", "%2e%2e/x", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "file:///etc/passwd", "%00", "//"],
)
def test_n23_a_part_that_is_no_upload_is_refused(tus: Tus, parts: tuple[str, str], name: str) -> None:
    for url in (name, f"{tus.path}/{name}"):
        answer = tus.join(parts[0], url)
        assert answer.status == 400, url
        assert b"root:" not in answer.body


def test_n24_a_list_of_ten_thousand_parts_is_refused(tus: Tus) -> None:
    part = path(tus.part(b"01234"))
    assert tus.join(*[part] * 10_001).status in (400, 431)


def test_n24_a_list_of_a_mebibyte_is_refused(tus: Tus) -> None:
    with tus.connect() as connection:
        tus.ask(connection, "POST", "", {"Upload-Concat": f"final;{'/x' * (1 << 19)}"}, b"")
        assert connection.answer().status in (400, 431)
    assert tus.create(10).status == 201


def test_n25_a_final_upload_takes_no_body(tus: Tus, parts: tuple[str, str]) -> None:
    answer = tus.request(
        "POST", "", {"Upload-Concat": f"final;{' '.join(parts)}", "Content-Type": OCTETS}, b"body of its own"
    )
    assert answer.status in (201, 403)
    if answer.status == 201:
        assert tus.holds(tus.located(answer), b"0123456789")


def test_n26_a_part_that_is_being_written_is_not_torn(tus: Tus, parts: tuple[str, str]) -> None:
    data = bytes(range(250)) * 4
    part = tus.upload(len(data), {"Upload-Concat": "partial"})
    with tus.slow_patch(part, data, pieces=100):
        assert eventually(lambda: tus.head(part).status == 200)
        answer = tus.join(parts[0], part)
    assert tus.resume(part, data)
    if answer.status == 201:  # waited for the part, at once or later
        url = tus.located(answer)
    else:
        assert answer.status in (400, 423)
        url = joined(tus, parts[0], part)
    assert tus.reaches(url, 5 + len(data))
    assert tus.holds(url, b"01234" + data)


def test_n27_without_the_extension_the_header_is_refused(configured: Configured) -> None:
    """Not ignored: the client would take a regular upload for a part."""
    tus, _ = configured(SPARTAN)
    assert tus.create(10, {"Upload-Concat": "partial"}).status in (400, 501)


def test_n28_an_expired_part_is_refused(expired: Expired) -> None:
    answer = expired.tus.join(expired.part)
    assert answer.status == 400
    assert answer["Location"] is None


def test_n29_empty_parts_make_an_empty_upload(tus: Tus) -> None:
    url = joined(tus, tus.part(b""), tus.part(b""))
    head = tus.head(url)
    assert (head["Upload-Offset"], head["Upload-Length"]) == ("0", "0")
