"""Records of uploads, as `protocol.rules` makes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tusserver.protocol.upload import Upload


def changed(upload: Upload, **values: Any) -> Upload:
    """Return an upload of tus with other values; it is complete if its offset is its length."""
    upload = replace(upload, **values)
    return replace(upload, **{"complete": upload.offset == upload.length, **values})
