"""Section A: OPTIONS, where a client learns what the server can do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.conftest import Configured, Offers
from tests.conformance.profiles import BARE, NO_CREATION, SPARTAN
from tests.support.tus import OCTETS, Tus, checksum
from tests.support.wire import Answer


def assert_tells_the_basics(answer: Answer) -> None:
    assert answer.status in (200, 204)
    assert "1.0.0" in answer.listed("Tus-Version")
    assert answer["Tus-Resumable"] == "1.0.0"
    assert answer.bodiless


def test_a1_options_tells_the_version(tus: Tus) -> None:
    """tus 1.0.0: "A successful response indicated by the 204 No Content or 200 OK status MUST contain the Tus-
    Version".
    """
    assert_tells_the_basics(tus.options())


def test_a2_options_ignores_the_version_of_the_client(tus: Tus) -> None:
    """tus 1.0.0: "The Client SHOULD NOT include the Tus-Resumable header in the request and the Server MUST
    ignore it".
    """
    assert_tells_the_basics(tus.options(headers={"Tus-Resumable": "0.0.1"}))


def test_a3_a_maximum_size_is_told(limited: tuple[Tus, int]) -> None:
    """tus 1.0.0: "The Server SHOULD set this header if a known hard limit exists"."""
    tus, size = limited
    assert tus.options()["Tus-Max-Size"] == str(size)


def test_a4_no_maximum_size_is_told_where_there_is_none(tus: Tus, foreign: str | None) -> None:
    size = tus.options()["Tus-Max-Size"]
    if foreign and size is not None:
        pytest.skip("needs a server configured without a maximum size")
    assert size is None


def test_a5_checksum_algorithms_are_told_and_sha1_is_one(tus: Tus, offers: Offers) -> None:
    """tus 1.0.0: "The Server MUST support at least the SHA1 checksum algorithm identified by sha1. The names of
    the checksum algorithms MUST only consist of ASCII characters with the modification that uppercase
    characters are excluded".
    """
    offers("checksum")
    algorithms = tus.options().listed("Tus-Checksum-Algorithm")
    assert "sha1" in algorithms
    assert all(name.isascii() and name == name.lower() for name in algorithms)


def test_a6_without_extensions_the_header_is_left_out(configured: Configured) -> None:
    """tus 1.0.0: "If no extensions are supported, the Tus-Extension header MUST be omitted"."""
    tus, _ = configured(BARE)
    answer = tus.options()
    assert_tells_the_basics(answer)
    assert answer["Tus-Extension"] is None


def test_a7_without_creation_nothing_that_builds_on_it_is_told(configured: Configured) -> None:
    """A server that cannot create must not say that it can create with an upload."""
    tus, _ = configured(NO_CREATION)
    extensions = tus.options().listed("Tus-Extension")
    assert "termination" in extensions
    assert not {"creation", "creation-with-upload", "creation-defer-length", "concatenation"} & set(extensions)


def test_a8_without_checksum_no_trailer_is_told(configured: Configured) -> None:
    tus, _ = configured(SPARTAN)
    answer = tus.options()
    assert answer.listed("Tus-Extension") == ["creation"]
    assert answer["Tus-Checksum-Algorithm"] is None


def test_a9_options_of_an_upload_tells_the_same(tus: Tus) -> None:
    """A preflight asks at the upload's own URL, also when the upload is gone."""
    assert_tells_the_basics(tus.options(tus.upload(10)))
    assert_tells_the_basics(tus.options(tus.child("unknown")))


def test_a10_without_expiry_the_extension_is_not_told(configured: Configured) -> None:
    tus, _ = configured(SPARTAN)
    assert "expiration" not in tus.options().listed("Tus-Extension")


def creation_works(tus: Tus) -> bool:
    return tus.create(10).status == 201


def creation_with_upload_works(tus: Tus) -> bool:
    return tus.create(5, body=b"hello")["Upload-Offset"] == "5"


def creation_defer_length_works(tus: Tus) -> bool:
    return tus.head(tus.upload(None))["Upload-Defer-Length"] == "1"


def expiration_works(tus: Tus) -> bool:
    return tus.create(10)["Upload-Expires"] is not None


def checksum_works(tus: Tus) -> bool:
    url = tus.upload(5)
    return tus.patch(url, 0, b"hello", {"Upload-Checksum": checksum(b"other")}).status == 460


def termination_works(tus: Tus) -> bool:
    url = tus.upload(5)
    return tus.delete(url).status == 204 and tus.head(url).status in (404, 410)


def concatenation_works(tus: Tus) -> bool:
    return tus.join(tus.part(b"hello"), tus.part(b"world")).status == 201


def concatenation_unfinished_works(tus: Tus) -> bool:
    return tus.join(tus.part(b"hello"), tus.part(b"wor", 5)).status == 201


def checksum_trailer_works(tus: Tus) -> bool:
    url = tus.upload(5)
    headers = {
        "Upload-Offset": "0",
        "Content-Type": OCTETS,
        "Transfer-Encoding": "chunked",
        "Trailer": "Upload-Checksum",
    }
    with tus.connect(url) as connection:
        connection.ask("PATCH", tus.target(url), tus.fields(headers), b"5\r\nhello\r\n0\r\n")
        connection.send(f"Upload-Checksum: {checksum(b'other')}\r\n\r\n".encode())
        return connection.answer().status == 460


PROBES: dict[str, Callable[[Tus], bool]] = {
    "creation": creation_works,
    "creation-with-upload": creation_with_upload_works,
    "creation-defer-length": creation_defer_length_works,
    "expiration": expiration_works,
    "checksum": checksum_works,
    "checksum-trailer": checksum_trailer_works,
    "termination": termination_works,
    "concatenation": concatenation_works,
    "concatenation-unfinished": concatenation_unfinished_works,
}


@pytest.mark.parametrize("extension", PROBES)
def test_a11_an_announced_extension_works(tus: Tus, extension: str) -> None:
    """Clients choose what to do by what OPTIONS says, so it must not promise too much."""
    if extension not in tus.options().listed("Tus-Extension"):
        pytest.skip(f"the server does not announce {extension}")
    assert PROBES[extension](tus)


def test_a11_our_own_server_announces_everything_it_can(tus: Tus, foreign: str | None) -> None:
    """Guards the rows that are skipped where an extension is not announced."""
    if foreign:
        pytest.skip("what another server should announce is not known")
    assert set(tus.options().listed("Tus-Extension")) == set(PROBES)


def test_a12_options_beside_the_collection_finds_nothing(tus: Tus) -> None:
    if not tus.path:
        pytest.skip("the whole server is the collection")
    assert tus.options(f"{tus.path}x").status == 404
