"""Content-Disposition: a name that a client made up, in a header that a browser believes."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tusserver.text import safe_filename
from tusserver.web.download import disposition

FORM = re.compile(
    r"(?:inline|attachment); filename=\"(?P<plain>[\x20-\x7e]*)\"; filename\*=UTF-8''(?P<full>[A-Za-z0-9._~%-]*)"
)


@given(st.text(max_size=300) | st.text('ab."\\\r\n;=%/é\u202e\ud800', max_size=20))
@example('a.txt"; filename="evil.exe')
@example("a\r\nSet-Cookie: x=1")
@example("..\\..\\evil")
@example("%00.txt")
@example("\ud800")
@example("rtl\u202egpj.exe")
def test_no_name_can_end_the_header_or_its_quotes(name: str) -> None:
    header = disposition(name, "text/html")
    if header != "attachment":
        found = FORM.fullmatch(header)
        assert found is not None
        assert not set('"\\%') & set(found["plain"])


@given(st.text(max_size=300))
def test_the_full_name_reads_back_as_the_safe_one(name: str) -> None:
    found = FORM.fullmatch(disposition(name, "text/html"))
    assert (unquote(found["full"], errors="strict") if found else "") == safe_filename(name)


@pytest.mark.parametrize("name", [None, "", "...", "/", "\0"])
def test_without_a_name_none_is_told(name: str | None) -> None:
    assert disposition(name, "text/html") == "attachment"


@pytest.mark.parametrize("media_type", ["image/png", "video/mp4", "audio/ogg", "text/plain", "application/pdf"])
def test_what_a_browser_only_shows_is_shown(media_type: str) -> None:
    assert disposition(None, media_type) == "inline"


@pytest.mark.parametrize(
    "media_type",
    [
        "text/html",
        "image/svg+xml",
        "image/svg",
        "application/xhtml+xml",
        "text/xml",
        "text/javascript",
        "text/plainer",
        "",
    ],
)
def test_what_a_browser_might_run_is_saved(media_type: str) -> None:
    assert disposition(None, media_type) == "attachment"
