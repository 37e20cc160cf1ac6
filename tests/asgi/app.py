"""The app that the servers of these tests run: Tus as somebody embeds it. The data folder is in STORAGE."""

from __future__ import annotations

import os
from datetime import timedelta

from starlette.applications import Starlette

from tusserver import FileStore, Timeouts, Tus

# A server that waits for what it need not wait for is seen to hang.
tus = Tus(FileStore(os.environ["STORAGE"], durability="none"), timeouts=Timeouts(idle_timeout=timedelta(hours=1)))
app = Starlette(routes=[tus.route("/files")], lifespan=tus.lifespan)
