"""The app that the servers of these tests run: Tus as somebody embeds it. The data folder is in STORAGE."""

from __future__ import annotations

import os

from starlette.applications import Starlette

from tusserver import FileStore, Tus

tus = Tus(FileStore(os.environ["STORAGE"], durability="none"))
app = Starlette(routes=[tus.route("/files")], lifespan=tus.lifespan)
