"""The server with an app in it: `tusserver`, but every complete upload is told to a callback that may fail or refuse.

python -m tests.torture.app serve --storage ...     takes the flags of tusserver

The callback does what the upload's name says (see `fate`) and notes each call in the file that TORTURE_CALLS names.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from tests.torture.fate import FAILED, REFUSED, SUCCEEDED, fate_of, note, read_calls
from tests.torture.order import REFUSED as STATUS
from tusserver import CreationRejected, Tus, Upload, assembly
from tusserver.__main__ import main

CALLS = "TORTURE_CALLS"
"""Variable that names the log of all calls."""


class NotToday(Exception):
    """The app is not in the mood; the next time it may be."""


async def on_finished(upload: Upload) -> None:
    """Take an upload, fail, or refuse it."""
    log = Path(os.environ[CALLS])
    fate = fate_of(upload.metadata.name or "")
    if fate.refused:
        note(log, upload.id, REFUSED)
        raise CreationRejected("the app does not want it", status=STATUS)
    if fate.failures:
        failed = sum(call.outcome == FAILED for call in read_calls(log).get(upload.id, ()))
        if failed < fate.failures:
            note(log, upload.id, FAILED)
            raise NotToday
    note(log, upload.id, SUCCEEDED)


if __name__ == "__main__":
    # What `serve` puts together, with workers, signals and settings, is an app that embeds `Tus` but for this argument.
    vars(assembly)["Tus"] = partial(Tus, on_finished=on_finished)
    sys.exit(main())
