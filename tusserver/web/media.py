"""The media type of a download: the one that its client named, if it is known that nothing runs it.

The type protects the site that serves an uploaded file. `Content-Disposition: attachment` does not: it prevents neither
`<script src>` nor `<link rel=stylesheet>`, `new Worker` or `import`. With `nosniff`, which every answer has, browsers
accept a script, a style sheet or a module by its type only, and show no document of another type than the one named. So
there is a list of harmless types, and no list of dangerous ones.
"""

from __future__ import annotations

import re

OCTETS = "application/octet-stream"

_LONGEST_TYPE = 512
_VISIBLE = re.compile(r"[\t\x20-\x7e]*")
_TOKEN = r"[a-z0-9!#$%&'*+.^_`|~-]+"
_UNQUOTED = r"[a-z0-9!#$%&'*+.^_`|~,-]+"
"""Value of a parameter, also with the commas that browsers leave unquoted: `video/webm;codecs=vp8,opus`."""
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PARAMETER = re.compile(rf"({_TOKEN})=({_UNQUOTED}|{_QUOTED})", re.ASCII | re.IGNORECASE)
_MEDIA_TYPE = re.compile(
    r"([a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126})"
    rf"((?:[ \t]*;(?:[ \t]*{_TOKEN}=(?:{_UNQUOTED}|{_QUOTED}))?)*)",
    re.ASCII | re.IGNORECASE,
)
_CHARSET = re.compile(
    "(us-)?ascii|utf-?8|utf-?16(le|be)?|iso-8859-[0-9]{1,2}(-[ei])?|latin-?[0-9]|windows-[0-9]{3,4}|koi8-[ru]|macintosh|"
    "shift[_-]jis|euc-(jp|kr)|gb2312|gbk|gb18030|big5(-hkscs)?|tis-620",
    re.ASCII | re.IGNORECASE,
)
"""Charsets in which bytes that look like ASCII text are that text. utf-7 and iso-2022-jp hide markup from filters."""

_MEDIA = re.compile(r"(image|audio|video)/(?!.*(svg|xml|html|script|flash))[a-z0-9.+-]+", re.ASCII)
"""Pictures, sound and films: no browser runs one as a script, whatever it contains (Fetch, "should response be blocked
due to its MIME type"). SVG and other XML is a document that may contain scripts."""
_SHOWN = frozenset({"text/plain", "application/pdf"})
_SAVED = frozenset(
    {
        *("text/csv", "text/tab-separated-values", "text/markdown", "text/calendar", "text/vcard", "text/vtt"),
        *("application/json", "application/rtf", "application/epub+zip", "application/postscript", "application/dicom"),
        *("application/ogg", "application/mp4", "application/vnd.apple.mpegurl", "application/x-subrip"),
        *("application/zip", "application/x-zip-compressed", "application/gzip", "application/x-gzip"),
        *("application/x-tar", "application/x-gtar", "application/zstd", "application/x-xz", "application/x-bzip2"),
        *("application/x-bzip", "application/x-7z-compressed", "application/vnd.rar", "application/x-rar-compressed"),
        *("application/msword", "application/vnd.ms-excel", "application/vnd.ms-powerpoint"),
        *(
            f"application/vnd.openxmlformats-officedocument.{kind}"
            for kind in ("wordprocessingml.document", "spreadsheetml.sheet", "presentationml.presentation")
        ),
        *(f"application/vnd.oasis.opendocument.{kind}" for kind in ("text", "spreadsheet", "presentation", "graphics")),
    }
)
"""Data that a browser saves, and that by these types it uses as nothing else."""


def type_of(text: str) -> str:
    """Return a media type that may stand in a header, with its parameters; `OCTETS` for all that is not on the list.

    Text gets a charset if it has none.

    >>> type_of('Video/MP4; codecs="avc1.42E01E, mp4a.40.2"')
    'video/mp4; codecs="avc1.42E01E, mp4a.40.2"'
    >>> type_of("text/javascript")
    'application/octet-stream'
    """
    text = text.strip(" ")
    found = _MEDIA_TYPE.fullmatch(text) if len(text) <= _LONGEST_TYPE and _VISIBLE.fullmatch(text) else None
    if found is None:
        return OCTETS
    essence, parameters = found[1].lower(), found[2].rstrip("; \t")
    if essence not in _SAVED and not is_shown(essence):
        return OCTETS
    charsets = [value.strip('"') for name, value in _PARAMETER.findall(parameters) if name.lower() == "charset"]
    if not all(_CHARSET.fullmatch(charset) for charset in charsets):
        return OCTETS
    if essence.startswith("text/") and not charsets:
        parameters += "; charset=utf-8"
    return essence + parameters


def is_shown(media_type: str) -> bool:
    """Whether a browser shows such content without running anything; all other content is to be saved to disk."""
    essence = media_type.partition(";")[0].rstrip()
    return essence in _SHOWN or _MEDIA.fullmatch(essence) is not None
