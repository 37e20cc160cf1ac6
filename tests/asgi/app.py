"""The app that the servers of these tests run: Tus as somebody embeds it. The data folder is in STORAGE."""

from __future__ import annotations

import os

from starlette.applications import Starlette

from tusserver import FileStore, Tus

# A server that waits for what it need not wait for is seen to hang.
tus = Tus(FileStore(os.environ["STORAGE"], durability="none"), idle_timeout=3600)
app = Starlette(routes=[tus.route("/files")], lifespan=tus.lifespan)
