"""Metadata: Upload-Metadata, kept as the client sent it, parsed on demand.

tus 1.0.0, Creation: "The Upload-Metadata request and response header MUST consist of one or more comma-separated
key-value pairs. The key and value MUST be separated by a space. The key MUST NOT contain spaces and commas and MUST
NOT be empty. The key SHOULD be ASCII encoded and the value MUST be Base64 encoded. All keys MUST be unique."
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tusserver.protocol.errors import InvalidMetadata
from tusserver.protocol.fields import base64_bytes

_KEY = re.compile(r"[!-+\--~]+", re.ASCII)  # visible ASCII but the comma


@dataclass(frozen=True, slots=True)
class Metadata:
    """Verbatim text, so that HEAD can give back "the value as specified by the client"."""

    text: str = ""
    """As it was sent, one character for each byte (latin-1)."""

    @classmethod
    def parse(cls, text: str) -> Metadata:
        """Check a header value. An empty one, which tuspy sends, counts as absent.

        Raises:
            InvalidMetadata: with the pair and the rule it breaks.
        """
        metadata = cls(text)
        metadata.pairs()
        return metadata

    def pairs(self) -> dict[str, bytes]:
        """Keys and decoded values, in order. A value is bytes: nothing says that it is text.

        Raises:
            InvalidMetadata
        """
        pairs: dict[str, bytes] = {}
        if not self.text:
            return pairs
        for number, pair in enumerate(self.text.split(","), 1):
            key, _, value = pair.lstrip(" \t").partition(" ")
            if not key:
                raise InvalidMetadata(f"pair {number} is empty")
            if _KEY.fullmatch(key) is None:
                raise InvalidMetadata(f"the key of pair {number} is not visible ASCII")
            if key in pairs:
                raise InvalidMetadata(f"the key of pair {number} stands twice")
            try:
                pairs[key] = base64_bytes(value)
            except ValueError:
                raise InvalidMetadata(f"the value of pair {number} is not Base64 with padding") from None
        return pairs

    def value(self, *keys: str) -> str | None:
        """Return the text of the first of `keys` that is not empty; bytes that are not UTF-8 become U+FFFD."""
        pairs = self.pairs()
        for key in keys:
            if value := pairs.get(key):
                return value.decode("utf-8", "replace")
        return None

    @property
    def name(self) -> str | None:
        """File name given by the client (`filename` by most, `name` by Uppy)."""
        return self.value("filename", "name")

    @property
    def type(self) -> str | None:
        """Media type given by the client (`filetype` by most, `type` by Uppy)."""
        return self.value("filetype", "type")
