"""An app as people embed it, for servers that are not ours: `uvicorn bench.embedded:app`. STORAGE names its folder."""

from __future__ import annotations

import os

from starlette.applications import Starlette

from tusserver import FileStore, Tus

tus = Tus(FileStore(os.environ["STORAGE"]))
app = Starlette(routes=[tus.route("/files")], lifespan=tus.lifespan)
