"""The dialect of tus 1.0.0: headers in, commands out; outcomes in, headers out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.uploads import changed
from tusserver.protocol.checksum import ALGORITHMS, Checksum
from tusserver.protocol.dialect import Offer, Reply, RequestHead
from tusserver.protocol.errors import (
    AmbiguousLength,
    BodyTimeout,
    ConcatenationUnsupported,
    ContentEncodingUnsupported,
    ExtensionDisabled,
    FinalIsReadOnly,
    FinishFailed,
    InvalidChecksum,
    InvalidConcat,
    InvalidContentType,
    InvalidDeferLength,
    InvalidLength,
    InvalidMetadata,
    InvalidOffset,
    MethodNotAllowed,
    OffsetMismatch,
    OutOfSpace,
    RepeatedHeader,
    ShuttingDown,
    StoreUnavailable,
    TusError,
    UnsupportedVersion,
    UploadLocked,
    UploadNotFound,
)
from tusserver.protocol.extensions import Extension
from tusserver.protocol.limits import Limits
from tusserver.protocol.messages import (
    Append,
    Appended,
    Content,
    Create,
    Created,
    Discover,
    Discovered,
    Download,
    Inspect,
    Inspected,
    Outcome,
    Terminate,
    Terminated,
    Unfinished,
)
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.tus import TusDialect
from tusserver.protocol.upload import Role, Upload, UploadId


class Broken(TusError):
    """Something of ours that is broken."""

    status = 500


ALL = frozenset(Extension)
NOW = datetime(2014, 6, 25, 16, tzinfo=UTC)
OCTETS = "application/offset+octet-stream"
SHA1_OF_NOTHING = "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk="


def a_dialect(extensions: Iterable[Extension] = ALL, *, download: bool = True, **limits: Any) -> TusDialect:
    return TusDialect(Offer(extensions=frozenset(extensions), limits=Limits(**limits), download=download))


DIALECT = a_dialect()


def a_head(
    method: str,
    name: str = "",
    headers: Mapping[str, str | None] | None = None,
    *,
    repeated: Iterable[str] = (),
    base_url: str = "https://example.org/files",
    base_paths: tuple[str, ...] = ("/files",),
    trailers: bool = False,
) -> RequestHead:
    return RequestHead(
        method=method,
        name=name,
        headers={
            name: value
            for name, value in {"tus-resumable": "1.0.0", **(headers or {})}.items()
            if value is not None  # None removes one
        },
        repeated=frozenset(repeated),
        base_url=base_url,
        base_paths=base_paths,
        trailers=trailers,
    )


def a_post(headers: Mapping[str, str], **how: Any) -> RequestHead:
    return a_head("POST", "", headers, **how)


def a_patch(headers: Mapping[str, str] | None = None, **how: Any) -> RequestHead:
    usual = {"content-type": OCTETS, "upload-offset": "0", "content-length": "5"}
    return a_head("PATCH", "abc", {**usual, **(headers or {})}, **how)


def an_upload(**values: Any) -> Upload:
    return changed(Upload(id=UploadId("abc"), created_at=NOW, length=10), **values)


def without(*names: str, headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in names}


# which command -------------------------------------------------------------------------------------------------------


def test_options_asks_what_the_server_can_do() -> None:
    assert DIALECT.read(a_head("OPTIONS")) == Discover()


def test_options_of_anything_below_is_the_same_question() -> None:
    assert DIALECT.read(a_head("OPTIONS", "../no/id")) == Discover()


def test_options_needs_no_version() -> None:
    # "The Client SHOULD NOT include the Tus-Resumable header in the request and the Server MUST ignore the header."
    assert DIALECT.read(a_head("OPTIONS", headers={"tus-resumable": "0.0.1"})) == Discover()


def test_head_asks_how_far_an_upload_came() -> None:
    assert DIALECT.read(a_head("HEAD", "abc")) == Inspect(id=UploadId("abc"))


def test_delete_ends_an_upload() -> None:
    assert DIALECT.read(a_head("DELETE", "abc")) == Terminate(id=UploadId("abc"))


def test_get_reads_an_upload_and_needs_no_version() -> None:
    assert DIALECT.read(a_head("GET", "abc", {"tus-resumable": ""})) == Download(id=UploadId("abc"))


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE", "GET", "POST", "PUT"])
@pytest.mark.parametrize("name", ["..", "a/b", "a%2fb", "a\0", "a" * 129, "é", "abc.record"])
def test_what_cannot_be_an_id_is_not_found_by_any_method(method: str, name: str) -> None:
    with pytest.raises(UploadNotFound):
        DIALECT.read(a_head(method, name))


@pytest.mark.parametrize(
    ("method", "name", "allow"),
    [
        ("PUT", "", "OPTIONS, POST"),
        ("HEAD", "", "OPTIONS, POST"),
        ("PATCH", "", "OPTIONS, POST"),
        ("FOO", "", "OPTIONS, POST"),
        ("POST", "abc", "OPTIONS, HEAD, PATCH, GET, DELETE"),
        ("PUT", "abc", "OPTIONS, HEAD, PATCH, GET, DELETE"),
    ],
)
def test_another_method_is_refused_with_those_that_apply(method: str, name: str, allow: str) -> None:
    with pytest.raises(MethodNotAllowed) as refusal:
        DIALECT.read(a_head(method, name))
    assert refusal.value.allow == allow


@pytest.mark.parametrize(
    ("off", "method", "name"),
    [(Extension.CREATION, "POST", ""), (Extension.TERMINATION, "DELETE", "abc")],
)
def test_a_method_whose_extension_is_off_is_refused(off: Extension, method: str, name: str) -> None:
    with pytest.raises(MethodNotAllowed) as refusal:
        a_dialect(ALL - {off}).read(a_head(method, name))
    assert method not in refusal.value.allow


def test_downloads_can_be_switched_off() -> None:
    with pytest.raises(MethodNotAllowed):
        a_dialect(ALL, download=False).read(a_head("GET", "abc"))


@pytest.mark.parametrize("actual", ["POST", "PUT", "GET"])
def test_the_overriding_method_counts_and_the_actual_one_does_not(actual: str) -> None:
    # "The actual method of the request MUST be ignored" in favour of X-HTTP-Method-Override
    assert DIALECT.read(a_head(actual, "abc", {"x-http-method-override": "delete"})) == Terminate(id=UploadId("abc"))
    assert DIALECT.read(a_head(actual, "abc", {"x-http-method-override": "HEAD"})) == Inspect(id=UploadId("abc"))


def test_a_refusal_of_an_overriding_head_is_one_of_head() -> None:
    told = DIALECT.refuse(StoreUnavailable(), a_head("POST", "abc", {"x-http-method-override": "HEAD"}))
    assert (told.status, told.body) == (423, b"")


# version -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version", ["", "0", "1", "1.0", "1.0.1", "1.1.1", "0.2.2", "1.0.0b", "1.0.0, 1.0.0", "v1.0.0"]
)
@pytest.mark.parametrize(("method", "name"), [("POST", ""), ("HEAD", "abc"), ("PATCH", "abc"), ("DELETE", "abc")])
def test_another_version_is_refused_before_anything_else_is_read(method: str, name: str, version: str) -> None:
    # "If the version specified by the Client is not supported by the Server, it MUST respond with the 412 …"
    with pytest.raises(UnsupportedVersion):
        DIALECT.read(a_head(method, name, {"tus-resumable": version, "upload-length": "x"}))


def test_a_missing_version_is_refused() -> None:
    head = a_post({"upload-length": "10"})
    with pytest.raises(UnsupportedVersion):
        DIALECT.read(replace(head, headers=without("tus-resumable", headers=head.headers)))


def test_a_version_sent_twice_is_refused() -> None:
    with pytest.raises(UnsupportedVersion):
        DIALECT.read(a_post({"upload-length": "10"}, repeated=["tus-resumable"]))


@pytest.mark.parametrize(
    "name", ["upload-length", "upload-offset", "upload-metadata", "upload-concat", "upload-checksum"]
)
def test_a_header_of_tus_sent_twice_is_refused_by_name(name: str) -> None:
    with pytest.raises(RepeatedHeader, match=name):
        DIALECT.read(a_post({"upload-length": "10"}, repeated=[name, "accept"]))


def test_other_headers_may_be_repeated() -> None:
    assert DIALECT.read(a_post({"upload-length": "10"}, repeated=["accept", "cookie", "x-forwarded-for"]))


# creation ------------------------------------------------------------------------------------------------------------


def test_a_creation_has_a_length_and_metadata() -> None:
    head = a_post({"upload-length": "10", "upload-metadata": "k YQ=="})
    assert DIALECT.read(head) == Create(length=10, metadata=Metadata("k YQ=="))


def test_an_empty_upload_can_be_created() -> None:
    assert DIALECT.read(a_post({"upload-length": "0"})) == Create(length=0, metadata=Metadata())


def test_a_length_can_be_deferred() -> None:
    assert DIALECT.read(a_post({"upload-defer-length": "1"})) == Create(length=None, metadata=Metadata())


@pytest.mark.parametrize("value", ["0", "2", "true", "", "01", "1 1"])
def test_a_length_is_deferred_by_1_and_nothing_else(value: str) -> None:
    with pytest.raises(InvalidDeferLength):
        DIALECT.read(a_post({"upload-defer-length": value}))


def test_a_creation_without_a_length_is_refused() -> None:
    with pytest.raises(InvalidLength):
        DIALECT.read(a_post({}))


def test_a_length_both_given_and_deferred_is_refused() -> None:
    with pytest.raises(AmbiguousLength):
        DIALECT.read(a_post({"upload-length": "10", "upload-defer-length": "1"}))


def test_a_deferred_length_is_refused_where_the_extension_is_off() -> None:
    with pytest.raises(ExtensionDisabled, match="creation-defer-length"):
        a_dialect(ALL - {Extension.CREATION_DEFER_LENGTH}).read(a_post({"upload-defer-length": "1"}))


def test_malformed_metadata_are_refused_at_creation() -> None:
    with pytest.raises(InvalidMetadata):
        DIALECT.read(a_post({"upload-length": "10", "upload-metadata": "k notb64!"}))


def test_a_creation_takes_its_first_bytes_along() -> None:
    head = a_post({"upload-length": "10", "content-type": OCTETS, "content-length": "5"})
    first = Append(id=None, offset=0, body_length=5)
    assert DIALECT.read(head) == Create(length=10, metadata=Metadata(), first=first)


def test_first_bytes_may_have_a_checksum() -> None:
    head = a_post({"upload-length": "0", "content-type": OCTETS, "upload-checksum": SHA1_OF_NOTHING})
    create = DIALECT.read(head)
    assert isinstance(create, Create)
    assert create.first is not None
    assert create.first.checksum == Checksum.parse(SHA1_OF_NOTHING)


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "", "application/octet-stream"])
def test_a_body_of_another_type_is_no_upload_and_no_error(content_type: str) -> None:
    head = a_post({"upload-length": "10", "content-type": content_type, "content-length": "5"})
    assert DIALECT.read(head) == Create(length=10, metadata=Metadata())


def test_first_bytes_are_ignored_where_the_extension_is_off() -> None:
    head = a_post({"upload-length": "10", "content-type": OCTETS, "content-length": "5"})
    dialect = a_dialect(ALL - {Extension.CREATION_WITH_UPLOAD})
    assert dialect.read(head) == Create(length=10, metadata=Metadata())


def test_an_offset_at_creation_is_ignored() -> None:
    head = a_post({"upload-length": "10", "content-type": OCTETS, "upload-offset": "3"})
    create = DIALECT.read(head)
    assert isinstance(create, Create)
    assert create.first is not None
    assert create.first.offset == 0


# bodies --------------------------------------------------------------------------------------------------------------


def test_a_patch_appends_at_its_offset() -> None:
    assert DIALECT.read(a_patch({"upload-offset": "70", "content-length": "30"})) == Append(
        id=UploadId("abc"), offset=70, body_length=30
    )


def test_a_chunked_patch_has_no_known_length() -> None:
    head = a_patch({"transfer-encoding": "chunked"})
    command = DIALECT.read(replace(head, headers=without("content-length", headers=head.headers)))
    assert isinstance(command, Append)
    assert command.body_length is None


def test_a_patch_without_a_body_has_length_zero() -> None:
    head = a_patch()
    command = DIALECT.read(replace(head, headers=without("content-length", headers=head.headers)))
    assert isinstance(command, Append)
    assert command.body_length == 0


def test_a_patch_can_declare_the_length() -> None:
    command = DIALECT.read(a_patch({"upload-length": "10"}))
    assert isinstance(command, Append)
    assert command.length == 10


def test_a_malformed_length_in_a_patch_is_refused() -> None:
    with pytest.raises(InvalidLength):
        DIALECT.read(a_patch({"upload-length": "-1"}))


@pytest.mark.parametrize("ignored", [{"upload-defer-length": "7"}, {"upload-metadata": "not base64!"}])
def test_headers_of_creation_mean_nothing_in_a_patch(ignored: dict[str, str]) -> None:
    assert DIALECT.read(a_patch(ignored)) == DIALECT.read(a_patch())


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream"])
def test_a_patch_of_another_type_is_refused(content_type: str) -> None:
    with pytest.raises(InvalidContentType):
        DIALECT.read(a_patch({"content-type": content_type, "upload-offset": "x"}))


@pytest.mark.parametrize("offset", ["", "-1", "abc", "5.0", "05", "+5"])
def test_a_patch_at_no_offset_is_refused(offset: str) -> None:
    with pytest.raises(InvalidOffset):
        DIALECT.read(a_patch({"upload-offset": offset}))


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip"])
def test_a_compressed_body_is_refused(coding: str) -> None:
    with pytest.raises(ContentEncodingUnsupported):
        DIALECT.read(a_patch({"content-encoding": coding}))


def test_a_body_coded_as_itself_is_welcome() -> None:
    assert DIALECT.read(a_patch({"content-encoding": "Identity"})) == DIALECT.read(a_patch())


# checksums -----------------------------------------------------------------------------------------------------------


def test_a_checksum_travels_with_the_body() -> None:
    command = DIALECT.read(a_patch({"upload-checksum": SHA1_OF_NOTHING}))
    assert isinstance(command, Append)
    assert command.checksum == Checksum.parse(SHA1_OF_NOTHING)


@pytest.mark.parametrize("value", ["", "sha1", "sha1 ", "sha1 @@", "crc99 AAAA", "SHA1 2jmj7l5rSw0yVb/vlWAYkK/YBwk="])
def test_a_malformed_checksum_is_refused(value: str) -> None:
    with pytest.raises(InvalidChecksum):
        DIALECT.read(a_patch({"upload-checksum": value}))


def test_a_checksum_is_ignored_where_the_extension_is_off() -> None:
    # tuspy sends one without asking OPTIONS
    command = a_dialect(ALL - {Extension.CHECKSUM}).read(a_patch({"upload-checksum": "no such thing"}))
    assert isinstance(command, Append)
    assert (command.checksum, command.checksum_in_trailer) == (None, False)


CHUNKED = {"transfer-encoding": "chunked"}


@pytest.mark.parametrize(
    "announced", ["Upload-Checksum", "upload-checksum", "X-Other,\tUPLOAD-CHECKSUM ,", "a , upload-checksum"]
)
def test_a_checksum_can_be_announced_as_a_trailer(announced: str) -> None:
    command = DIALECT.read(a_patch({"trailer": announced, **CHUNKED}, trailers=True))
    assert isinstance(command, Append)
    assert (command.checksum, command.checksum_in_trailer) == (None, True)


@pytest.mark.parametrize(
    ("dialect", "framing", "trailers"),
    [
        (DIALECT, CHUNKED, False),
        (DIALECT, {"content-length": "10"}, True),
        (DIALECT, {"content-length": "10"}, False),
        (DIALECT, {"content-length": "0"}, True),
        (a_dialect(ALL - {Extension.CHECKSUM_TRAILER}), CHUNKED, True),
    ],
    ids=["trailers are dropped", "a length", "both", "a length of nothing", "switched off"],
)
@pytest.mark.parametrize("announced", ["Upload-Checksum", "X-Other, upload-checksum"])
@pytest.mark.parametrize("creates", [False, True])
def test_a_checksum_announced_as_a_trailer_that_cannot_come_is_refused(
    dialect: TusDialect, framing: dict[str, str], trailers: bool, announced: str, creates: bool
) -> None:
    head = a_patch({"trailer": announced, **framing}, trailers=trailers)
    if creates:
        head = a_post(
            {"content-type": OCTETS, "upload-length": "10", "trailer": announced, **framing}, trailers=trailers
        )
    with pytest.raises(InvalidChecksum, match="announced as a trailer"):
        dialect.read(head)


@pytest.mark.parametrize("framing", [CHUNKED, {"content-length": "10"}])
def test_other_trailers_may_be_announced_wherever_they_end(framing: dict[str, str]) -> None:
    command = DIALECT.read(a_patch({"trailer": "X-Other, X-Upload-Checksum", **framing}, trailers=False))
    assert isinstance(command, Append)
    assert not command.checksum_in_trailer


def test_a_checksum_both_sent_and_announced_is_refused() -> None:
    headers = {"trailer": "Upload-Checksum", "upload-checksum": SHA1_OF_NOTHING, **CHUNKED}
    with pytest.raises(InvalidChecksum):
        DIALECT.read(a_patch(headers, trailers=True))


def test_the_checksum_is_found_among_the_trailers() -> None:
    assert DIALECT.read_trailers({"upload-checksum": SHA1_OF_NOTHING}) == Checksum.parse(SHA1_OF_NOTHING)


def test_trailers_without_a_checksum_have_none() -> None:
    assert DIALECT.read_trailers({"x-other": "1"}) is None


# concatenation -------------------------------------------------------------------------------------------------------


def test_a_partial_upload_is_created_like_any_other() -> None:
    head = a_post({"upload-length": "10", "upload-concat": "partial"})
    assert DIALECT.read(head) == Create(length=10, metadata=Metadata(), role=Role.PARTIAL, concat="partial")


def test_a_final_upload_names_its_parts() -> None:
    concat = "final;https://example.org/files/a /files/b c"
    create = DIALECT.read(a_post({"upload-concat": concat, "upload-metadata": "k YQ=="}))
    assert create == Create(
        length=None,
        metadata=Metadata("k YQ=="),
        role=Role.FINAL,
        concat=concat,
        parts=(UploadId("a"), UploadId("b"), UploadId("c")),
    )


ids = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=1, max_size=128)
hosts = st.sampled_from(["example.org", "EXAMPLE.org:8443", "127.0.0.1:8080", "[::1]:8080", ""])
folders = st.lists(
    st.text("abcXYZ09._~-", min_size=1, max_size=8).filter(lambda name: name.strip(".")), max_size=3
).map(lambda names: "".join(f"/{name}" for name in names))
forms = st.sampled_from(
    [
        *("url", "path", "name", "slash", "query", "other scheme", "other case", "inside"),
        *("other host", "no scheme", "beside", "dotted", "encoded"),
    ]
)


def url_of(form: str, upload_id: str, host: str, outside: str, inside: str) -> str:
    base = f"https://{host}{outside}" if host else outside
    match form:
        case "path":
            return f"{outside}/{upload_id}"
        case "name":
            return upload_id if not upload_id.startswith("//") else f"./{upload_id}"
        case "slash":
            return f"{base}/{upload_id}/"
        case "query":
            return f"{base}/{upload_id}?x=1#y"
        case "other scheme":  # behind a proxy that ends TLS
            return base.replace("https:", "http:") + f"/{upload_id}"
        case "other case":
            return base.replace(host, host.swapcase()) + f"/{upload_id}" if host else f"{base}/{upload_id}"
        case "inside":  # as the server is called behind a proxy that adds a prefix
            return f"{inside}/{upload_id}"
        case "other host":  # behind a proxy that changes Location but not Host, or the other way round
            return f"https://cdn.example:444{outside}/{upload_id}"
        case "no scheme":
            return f"//cdn.example{outside}/{upload_id}"
        case "beside":  # the collection, resolved as a URL without a trailing slash
            return f"{outside.rpartition('/')[2] or '.'}/{upload_id}"
        case "dotted":
            return f"./{upload_id}/"
        case "encoded":
            encoded = "".join(f"%{ord(letter):02x}" for letter in upload_id)
            return f"{outside.replace('a', '%61').replace('.', '%2E')}/{encoded}"
        case _:
            return f"{base}/{upload_id}"


@given(st.lists(st.tuples(ids, forms), min_size=1, max_size=6), hosts, folders, folders)
def test_parts_are_found_in_every_form_their_url_can_have(
    parts: list[tuple[str, str]], host: str, outside: str, inside: str
) -> None:
    urls = " ".join(url_of(form, upload_id, host, outside, inside) for upload_id, form in parts)
    head = a_post(
        {"upload-concat": f"final;{urls}"},
        base_url=f"https://{host}{outside}" if host else outside,
        base_paths=(outside, inside),
    )
    create = DIALECT.read(head)
    assert isinstance(create, Create)
    assert create.parts == tuple(upload_id for upload_id, _ in parts)


@given(st.text(st.characters(max_codepoint=255), max_size=60))
@example("partial ")
@example("Partial")
@example("final")
@example("final;")
@example("final; ")
@example("final;http://[")
@example("final;http://[::1")
@example("final;//")
@example("final;a,b")
def test_any_other_text_is_refused_or_kept_to_the_letter(text: str) -> None:
    try:
        create = DIALECT.read(a_post({"upload-concat": text, "upload-length": "1"}))
    except TusError:
        try:
            create = DIALECT.read(a_post({"upload-concat": text}))
        except TusError:
            return
    assert isinstance(create, Create)
    assert create.concat == text


@given(st.text(st.characters(max_codepoint=255), max_size=60))
@example("/files/a")
@example("a b")
@example("/etc/passwd")
@example("https://evil.example/files/a")
@example("https://example.org:1/files/a")
@example("https://user@example.org/files/a")
@example("/files/a/.")
@example("/files/%61")
@example("files/a")
@example("files/../a")
@example("%2e%2e/files/a")
@example("//evil.example/files/a")
@example("/files/../files/a")
@example("../files/a")
@example("/files/a/b")
@example("/files/a%2e")
@example("/files//a")
@example("\\\\evil.example\\files\\a")
@example("\x08a")
@example("/files/a\xa0/files/b")
def test_a_part_is_always_an_upload_of_this_collection(urls: str) -> None:
    try:
        create = DIALECT.read(a_post({"upload-concat": f"final;{urls}"}))
    except InvalidConcat:
        return
    assert isinstance(create, Create)
    assert len(create.parts) == len(urls.split())
    for part, url in zip(create.parts, urls.split(), strict=True):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", part)
        path = [unquote(segment) for segment in url.partition("?")[0].partition("#")[0].split("/")]
        assert [segment for segment in path if segment not in ("", ".")][-1] == part
        assert ".." not in path


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example/a",
        "https://other.example/files/x/a",
        "https://example.org/other/a",
        "//files/a",
        "////files/a",
        "/files//a",
        "http:files/a",
        "https:///files/a",
        "file:///files/a",
        "/other/a",
        "other/a",
        "files/files/a",
        "../files/a",
        "files/../files/a",
        "/x/../files/a",
        "/files/%2e%2e/files/a",
        "%2e%2E/files/a",
        "/files%2fa",
        "files%2Fa",
        "/%2ffiles/a",
        "%2Ffiles/a",
        "a%2f",
        "a%20b",
        "a%",
        "a%zz",
        "%ff",
        "a.b",
        "a" * 129,
        "/files",
        "/files/",
        "/files/a/b",
        "/files/../etc/a",
        "/files/..%2fa",
        "/files/a%00",
        "..",
        "https://[::1/files/a",
        "ftp://other.example/files/a",
        "mailto:a",
        "/files/a\\b",
        "/files\\a",
    ],
)
def test_a_url_of_somebody_else_is_refused(url: str) -> None:
    with pytest.raises(InvalidConcat, match="a partial upload's URL"):
        DIALECT.read(a_post({"upload-concat": f"final;/files/x {url}"}))


@pytest.mark.parametrize(
    "urls", ["/files/a\t/files/b", "/files/a\xa0/files/b", "\x08/files/a", "/files/\xe9", "/files/a\x7f"]
)
def test_a_url_has_no_characters_that_its_parser_would_drop(urls: str) -> None:
    with pytest.raises(InvalidConcat, match="visible ASCII characters only"):
        DIALECT.read(a_post({"upload-concat": f"final;{urls}"}))


@pytest.mark.parametrize(
    "url",
    [
        *("https://other.example/files/a", "http://other.example:8443/files/a/", "//other.example/files/a", "/files/a"),
        *("files/a", "./files/a", "files/a/", "./a", "a", "a/", "/files/./a", "%66iles/%61", "/files/%61/", "%61"),
        *("https://user@other.example/files/a", "HTTPS://OTHER.example/files/a?x=1#y"),
    ],
)
@pytest.mark.parametrize("base_url", ["https://example.org/files", "/files"])
def test_which_upload_a_part_is_says_its_path_and_not_its_host(url: str, base_url: str) -> None:
    create = DIALECT.read(a_post({"upload-concat": f"final;{url}"}, base_url=base_url))
    assert isinstance(create, Create)
    assert create.parts == (UploadId("a"),)


def test_a_collection_at_the_root_has_its_parts_there() -> None:
    urls = "https://other.example/a /a a ./a a/"
    create = DIALECT.read(a_post({"upload-concat": f"final;{urls}"}, base_url="https://example.org", base_paths=("",)))
    assert isinstance(create, Create)
    assert create.parts == (UploadId("a"),) * 5


@pytest.mark.parametrize("text", ["final;", "final; ", "final;   "])
def test_a_final_upload_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidConcat, match="names no partial upload"):
        DIALECT.read(a_post({"upload-concat": text}))


@pytest.mark.parametrize("text", ["", "final", "Partial", "partial;", "Final;/files/a", "whole"])
def test_every_other_word_is_refused(text: str) -> None:
    with pytest.raises(InvalidConcat, match="it must be partial, or final;"):
        DIALECT.read(a_post({"upload-concat": text, "upload-length": "1"}))


def test_one_part_may_be_named_twice() -> None:
    create = DIALECT.read(a_post({"upload-concat": "final;/files/a /files/b /files/a"}))
    assert isinstance(create, Create)
    assert create.parts == (UploadId("a"), UploadId("b"), UploadId("a"))


def test_more_parts_than_a_final_upload_may_have_are_counted_and_not_read() -> None:
    """A head has room for 90,000 short URLs, and to read them took more than a second."""
    dialect = a_dialect(ALL, parts=2)
    assert len(dialect.read(a_post({"upload-concat": "final;a b"})).parts) == 2  # type: ignore[union-attr]
    with pytest.raises(InvalidConcat, match=r"more than limits[.]parts = 2"):
        dialect.read(a_post({"upload-concat": "final;/elsewhere/x a b"}))


@pytest.mark.parametrize("name", ["upload-length", "upload-defer-length"])
def test_a_final_upload_with_a_length_is_refused(name: str) -> None:
    # "The Client MUST NOT include the Upload-Length header in the final upload creation."
    with pytest.raises(InvalidLength):
        DIALECT.read(a_post({"upload-concat": "final;/files/a", name: "1"}))


def test_a_final_upload_with_a_body_is_refused() -> None:
    head = a_post({"upload-concat": "final;/files/a", "content-type": OCTETS, "content-length": "1"})
    with pytest.raises(FinalIsReadOnly):
        DIALECT.read(head)


def test_a_final_upload_with_the_type_of_a_body_but_none_is_created() -> None:
    create = DIALECT.read(a_post({"upload-concat": "final;/files/a", "content-type": OCTETS}))
    assert isinstance(create, Create)
    assert create.first is None


@pytest.mark.parametrize("text", ["partial", "final;/files/a", "nonsense"])
def test_concatenation_is_refused_where_the_extension_is_off(text: str) -> None:
    with pytest.raises(ConcatenationUnsupported):
        a_dialect(ALL - {Extension.CONCATENATION}).read(a_post({"upload-concat": text, "upload-length": "1"}))


# whatever a client sends ---------------------------------------------------------------------------------------------

HEADERS = [
    "content-type",
    "content-encoding",
    "trailer",
    "upload-checksum",
    "upload-concat",
    "upload-defer-length",
    "upload-length",
    "upload-metadata",
    "upload-offset",
]
plausible = st.sampled_from(
    [OCTETS, "0", "1", "10", "partial", "final;/files/a", SHA1_OF_NOTHING, "k YQ==", "", "gzip"]
)


@given(
    st.sampled_from(["OPTIONS", "POST", "HEAD", "PATCH", "DELETE", "GET", "PUT", "FOO"]),
    st.sampled_from(["", "abc", "..", "a/b"]),
    st.dictionaries(st.sampled_from(HEADERS), plausible | st.text(st.characters(max_codepoint=255), max_size=30)),
    st.booleans(),
)
def test_whatever_is_asked_is_understood_or_refused_in_words(
    method: str, name: str, headers: dict[str, str], trailers: bool
) -> None:
    head = a_head(method, name, headers, trailers=trailers)
    refusal = None
    try:
        DIALECT.read(head)
    except TusError as error:
        refusal = error
    if refusal is not None:
        reply = DIALECT.refuse(refusal, head)
        assert 400 <= reply.status < 500
        assert refusal.code.encode() in reply.body or method == "HEAD"


# OPTIONS -------------------------------------------------------------------------------------------------------------


def options(*off: Extension, trailers: bool = False, max_size: int | None = None) -> Reply:
    return a_dialect(ALL - set(off), max_size=max_size).write(Discovered(), a_head("OPTIONS", trailers=trailers))


def test_options_tells_version_extensions_and_algorithms() -> None:
    assert options() == Reply(
        204,
        {
            "Tus-Resumable": "1.0.0",
            "Cache-Control": "no-store",
            "Tus-Version": "1.0.0",
            "Tus-Extension": "creation,creation-with-upload,creation-defer-length,expiration,checksum,termination,"
            "concatenation,concatenation-unfinished",
            "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
        },
    )


def test_trailers_are_advertised_only_where_they_can_arrive() -> None:
    assert "checksum-trailer" in options(trailers=True).headers["Tus-Extension"].split(",")


def test_options_has_the_maximum_size_if_there_is_one() -> None:
    assert options(max_size=10).headers["Tus-Max-Size"] == "10"
    assert "Tus-Max-Size" not in options().headers


def test_an_extension_that_is_off_is_not_advertised() -> None:
    assert "termination" not in options(Extension.TERMINATION).headers["Tus-Extension"].split(",")


def test_options_has_no_algorithms_where_checksums_are_off() -> None:
    assert "Tus-Checksum-Algorithm" not in options(Extension.CHECKSUM).headers


def test_without_any_extension_the_header_is_left_out() -> None:
    assert "Tus-Extension" not in options(*ALL).headers


# answers -------------------------------------------------------------------------------------------------------------


def test_every_answer_tells_the_version() -> None:
    outcomes: list[Outcome] = [
        Discovered(),
        Created(upload=an_upload()),
        Appended(upload=an_upload()),
        Inspected(upload=an_upload()),
        Content(upload=an_upload(), size=10, etag="abc"),
        Terminated(),
    ]
    assert {DIALECT.write(outcome, a_head("GET", "abc")).headers["Tus-Resumable"] for outcome in outcomes} == {"1.0.0"}


def test_a_creation_is_answered_with_the_url() -> None:
    assert DIALECT.write(Created(upload=an_upload()), a_head("POST")) == Reply(
        201,
        {
            "Tus-Resumable": "1.0.0",
            "Cache-Control": "no-store",
            "Location": "https://example.org/files/abc",
            "Upload-Offset": "0",
        },
    )


def test_a_relative_location_starts_with_the_path() -> None:
    reply = DIALECT.write(Created(upload=an_upload()), a_head("POST", base_url="/files"))
    assert reply.headers["Location"] == "/files/abc"


def test_a_creation_is_answered_with_the_offset_only_where_it_may_have_a_body() -> None:
    dialect = a_dialect(ALL - {Extension.CREATION_WITH_UPLOAD})
    assert "Upload-Offset" not in dialect.write(Created(upload=an_upload()), a_head("POST")).headers


def test_a_final_upload_that_waits_is_created_without_an_offset() -> None:
    reply = DIALECT.write(Created(upload=an_upload(role=Role.FINAL)), a_head("POST"))
    assert "Upload-Offset" not in reply.headers


def test_a_creation_that_was_cut_short_ends_the_connection() -> None:
    assert DIALECT.write(Created(upload=an_upload(), closes=True), a_head("POST")).closes


def test_an_append_is_answered_with_the_offset() -> None:
    reply = DIALECT.write(Appended(upload=an_upload(offset=5)), a_head("PATCH", "abc"))
    assert reply == Reply(204, {"Tus-Resumable": "1.0.0", "Cache-Control": "no-store", "Upload-Offset": "5"})


def test_a_termination_is_answered_without_content() -> None:
    reply = DIALECT.write(Terminated(), a_head("DELETE", "abc"))
    assert reply == Reply(204, {"Tus-Resumable": "1.0.0", "Cache-Control": "no-store"})


def test_head_is_answered_with_all_that_the_upload_was_created_with() -> None:
    upload = an_upload(offset=5, role=Role.PARTIAL, concat="partial", metadata=Metadata("b Mg==, a"), expires_at=NOW)
    assert DIALECT.write(Inspected(upload=upload), a_head("HEAD", "abc")) == Reply(
        200,
        {
            "Tus-Resumable": "1.0.0",
            "Cache-Control": "no-store",
            "Upload-Offset": "5",
            "Upload-Length": "10",
            "Upload-Metadata": "b Mg==, a",
            "Upload-Concat": "partial",
            "Upload-Expires": "Wed, 25 Jun 2014 16:00:00 GMT",
        },
    )


def state(**values: Any) -> dict[str, str]:
    return DIALECT.write(Inspected(upload=an_upload(**values)), a_head("HEAD", "abc")).headers


def test_head_says_that_the_length_is_deferred() -> None:
    # "the Server … MUST set the Upload-Defer-Length header if the Upload-Length header is not set"
    headers = state(length=None)
    assert headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in headers


def test_head_has_nothing_that_was_not_given() -> None:
    assert state() == {
        "Tus-Resumable": "1.0.0",
        "Cache-Control": "no-store",
        "Upload-Offset": "0",
        "Upload-Length": "10",
    }


def test_a_waiting_final_upload_tells_its_length_but_no_offset() -> None:
    headers = state(role=Role.FINAL)
    assert headers["Upload-Length"] == "10"
    assert "Upload-Offset" not in headers


def test_a_waiting_final_upload_of_unknown_length_tells_neither_and_defers_nothing() -> None:
    headers = state(role=Role.FINAL, length=None)
    assert not {"Upload-Length", "Upload-Offset", "Upload-Defer-Length"} & headers.keys()


def test_a_joined_final_upload_tells_both() -> None:
    headers = state(role=Role.FINAL, offset=10)
    assert (headers["Upload-Offset"], headers["Upload-Length"]) == ("10", "10")


@pytest.mark.parametrize("outcome", [Created, Appended, Inspected])
def test_an_answer_has_the_deadline_as_long_as_it_counts(outcome: Any) -> None:
    def told(dialect: TusDialect, **values: Any) -> str | None:
        answer = dialect.write(outcome(upload=an_upload(expires_at=NOW, **values)), a_head("HEAD", "abc"))
        return answer.headers.get("Upload-Expires")

    assert told(DIALECT) == "Wed, 25 Jun 2014 16:00:00 GMT"
    assert told(DIALECT, offset=10, finished=True) is None
    assert told(a_dialect(ALL - {Extension.EXPIRATION})) is None


# refusals ------------------------------------------------------------------------------------------------------------


def test_a_refusal_has_status_code_and_message() -> None:
    assert DIALECT.refuse(OffsetMismatch(expected=5, provided=7), a_head("PATCH", "abc")) == Reply(
        409,
        {
            "Tus-Resumable": "1.0.0",
            "Cache-Control": "no-store",
            "Content-Type": "text/plain; charset=utf-8",
            "Upload-Offset": "5",
        },
        b"ERR_MISMATCHED_OFFSET: mismatched offset: the offset of the upload is 5, Upload-Offset is 7\n",
    )


@pytest.mark.parametrize(
    "error", [StoreUnavailable(), ShuttingDown(), OutOfSpace(), FinishFailed(), BodyTimeout(), Broken()], ids=type
)
def test_what_is_transient_is_423_on_head_and_5xx_elsewhere(error: TusError) -> None:
    """On any other refusal of a HEAD tus-js-client starts at byte 0."""
    told = DIALECT.refuse(error, a_head("HEAD", "abc"))
    assert (told.status, told.body) == (423, b"")
    assert int(told.headers["Retry-After"]) > 0
    assert DIALECT.refuse(error, a_head("PATCH", "abc")).status == error.status >= 500


def test_a_download_has_the_headers_of_head_and_is_revalidated_by_caches() -> None:
    upload = an_upload(offset=10, finished=True, metadata=Metadata("b Mg=="))
    content = Content(upload=upload, size=10, etag="abc")
    head = DIALECT.write(Inspected(upload=upload), a_head("HEAD", "abc")).headers
    assert DIALECT.write(content, a_head("GET", "abc")).headers == {**head, "Cache-Control": "private, no-cache"}


def test_a_download_of_an_incomplete_upload_has_its_state_and_when_to_retry() -> None:
    upload = an_upload(offset=5)
    reply = DIALECT.write(Unfinished(upload=upload), a_head("GET", "abc"))
    assert (reply.status, reply.headers["Retry-After"], reply.headers["Cache-Control"]) == (423, "1", "no-store")
    assert (reply.headers["Upload-Offset"], reply.headers["Upload-Length"]) == ("5", "10")
    assert reply.body.startswith(b"ERR_INCOMPLETE_UPLOAD: ")


def test_head_without_a_version_is_answered_as_get_is_where_that_is_on() -> None:
    assert DIALECT.read(a_head("HEAD", "abc", {"tus-resumable": None})) == Download(id=UploadId("abc"))
    with pytest.raises(UnsupportedVersion):
        DIALECT.read(a_head("HEAD", "abc", {"tus-resumable": "0.2.2"}))
    with pytest.raises(UnsupportedVersion):
        a_dialect(ALL, download=False).read(a_head("HEAD", "abc", {"tus-resumable": None}))


def test_a_refusal_of_head_has_no_body() -> None:
    assert DIALECT.refuse(UploadNotFound(), a_head("HEAD", "abc")).body == b""


def test_a_wrong_version_is_answered_with_the_right_one() -> None:
    # "… MUST respond with the 412 Precondition Failed status and MUST include the Tus-Version header"
    assert DIALECT.refuse(UnsupportedVersion(), a_head("POST")).headers["Tus-Version"] == "1.0.0"


def test_a_method_that_does_not_apply_is_answered_with_those_that_do() -> None:
    assert DIALECT.refuse(MethodNotAllowed("OPTIONS, POST"), a_head("PUT")).headers["Allow"] == "OPTIONS, POST"


def test_a_refusal_that_can_be_retried_says_when() -> None:
    assert DIALECT.refuse(UploadLocked(), a_head("PATCH", "abc")).headers["Retry-After"] == "1"


@pytest.mark.parametrize(("method", "told"), [("PATCH", True), ("HEAD", False)])
def test_a_refused_patch_has_the_deadline_too(method: str, told: bool) -> None:
    # "This header MUST be included in every PATCH response if the upload is going to expire."
    error = OffsetMismatch(expected=5, provided=7)
    error.expires_at = NOW
    assert ("Upload-Expires" in DIALECT.refuse(error, a_head(method, "abc")).headers) is told
