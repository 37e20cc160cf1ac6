"""Which media types a download may have: those that are known to be harmless."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusserver.web.media import OCTETS, is_shown, type_of


@pytest.mark.parametrize(
    "kind",
    [
        *("text/javascript", "application/javascript", "application/x-javascript", "text/x-javascript", "text/jscript"),
        *("text/ecmascript", "application/ecmascript", "application/x-ecmascript", "text/x-ecmascript"),
        *(f"text/javascript1.{minor}" for minor in range(6)),
        *("text/livescript", "text/vbscript", "text/vbs", "text/typescript", "application/typescript", "module"),
        *("Text/JavaScript", "TEXT/JAVASCRIPT; charset=utf-8", " text/javascript ", "text/javascript;", "\ttext/html"),
        *("text/javascript;version=1.8", 'application/javascript;x="image/png"', "application/json+javascript"),
        *("text/html", "application/xhtml+xml", "text/xml", "application/xml", "application/rss+xml", "text/xsl"),
        *("image/svg+xml", "image/svg", "image/svg-xml", "image/vnd.x+xml", "video/xml", "audio/x-javascript"),
        *("application/mathml+xml", "model/x3d+xml", "application/dash+xml", "application/vnd.mozilla.xul+xml"),
        *("text/css", "text/x-component", "application/wasm", "text/cache-manifest", "application/manifest+json"),
        *("application/importmap+json", "application/speculationrules+json", "application/ld+json"),
        *("multipart/related", "multipart/x-mixed-replace", "message/rfc822", "application/x-mimearchive"),
        *("application/x-shockwave-flash", "application/java-archive", "application/x-java-applet", "application/hta"),
        *("text/plainer", "application/pdfx", "application/zip-html", "example/made-up", "text/*", "*/*", "image/"),
        *("image/png, text/javascript", "text/javascript, image/png", "image/png;a=b,text/html", "text/\u0130mage"),
        *("image/png\x00", "image/\x0bpng", "image/png\n;a=b", "ima\u212ae/png"),
    ],
)
def test_what_is_not_known_to_be_harmless_is_octets(kind: str) -> None:
    assert type_of(kind) == OCTETS


@pytest.mark.parametrize(
    "kind",
    [
        *("image/jpeg", "image/webp", "image/avif", "image/heic", "image/x-icon", "image/vnd.microsoft.icon"),
        *("audio/mpeg", "audio/x-wav", "audio/mp4", "video/quicktime", "video/x-matroska", "video/mp2t"),
        *("application/zip", "application/gzip", "application/x-7z-compressed", "application/json"),
        *("application/msword", "application/vnd.oasis.opendocument.text", "application/epub+zip"),
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ],
)
def test_what_is_harmless_keeps_its_type_and_its_parameters(kind: str) -> None:
    assert type_of(f" {kind.upper()}; A=b ") == f"{kind}; A=b"


def test_the_codecs_of_a_recording_are_kept() -> None:
    assert type_of("video/webm;codecs=vp8,opus") == "video/webm;codecs=vp8,opus"


@pytest.mark.parametrize("parameters", ["", "; format=flowed", "; xcharset=utf-7", '; x="charset=utf-7"'])
def test_text_has_a_charset_whatever_its_other_parameters_are_called(parameters: str) -> None:
    assert type_of(f"text/plain{parameters}") == f"text/plain{parameters}; charset=utf-8"


def test_of_several_charsets_each_has_to_be_harmless() -> None:
    assert type_of("text/csv;charset=utf-8;charset=ascii") == "text/csv;charset=utf-8;charset=ascii"
    assert type_of("text/csv;charset=utf-8;charset=iso-2022-jp") == OCTETS


@given(st.text(max_size=40), st.sampled_from(["javascript", "html", "css", "svg+xml", "wasm", "xml"]))
def test_nothing_around_a_dangerous_type_lets_it_pass(around: str, dangerous: str) -> None:
    for kind in (f"text/{dangerous}{around}", f"{around}text/{dangerous}", f"application/{dangerous};{around}"):
        told = type_of(kind)
        assert told == OCTETS or is_shown(told) or dangerous not in told.partition(";")[0]


@given(st.text('imagetxplvdo/;,=" \t\\+-', max_size=60))
def test_what_is_told_reads_as_the_same_type_again(text: str) -> None:
    assert type_of(type_of(text)) == type_of(text)
