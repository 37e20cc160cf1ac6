"""The server that is tormented: `tusserver`, with an app in it that is told of every complete upload, if one is wanted.

python -m tests.torture.app serve --storage ...     takes the flags of tusserver

The callback does what the upload's name says (see `fate`) and notes each call in the file that TORTURE_CALLS names.
Without that there is no app. What waits for a minute elsewhere, waits for a second here: runs are short.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

from tests.torture.fate import FAILED, REFUSED, SUCCEEDED, fate_of, note, read_calls
from tests.torture.order import REFUSED as STATUS
from tusserver import Tus, Upload, UploadRejected, app, assembly
from tusserver.__main__ import main
from tusserver.service.tuning import Tuning
from tusserver.service.wiring import Options

CALLS = "TORTURE_CALLS"
"""Variable that names the log of all calls."""
SOON = timedelta(seconds=1)


class NotToday(Exception):
    """The app is not in the mood; the next time it may be."""


async def on_finished(upload: Upload) -> None:
    """Take an upload, fail, or refuse it."""
    log = Path(os.environ[CALLS])
    fate = fate_of(upload.metadata.name or "")
    if fate.refused:
        note(log, upload.id, REFUSED)
        raise UploadRejected("the app does not want it", status=STATUS)
    if fate.failures:
        failed = sum(call.outcome == FAILED for call in read_calls(log).get(upload.id, ()))
        if failed < fate.failures:
            note(log, upload.id, FAILED)
            raise NotToday
    note(log, upload.id, SUCCEEDED)


if __name__ == "__main__":
    vars(app)["Options"] = partial(Options, tuning=Tuning(retry_delay=SOON))
    if CALLS in os.environ:
        # What `serve` puts together, with workers, signals and settings, embeds `Tus` as any app does.
        vars(assembly)["Tus"] = partial(Tus, on_finished=on_finished)
    sys.exit(main())
