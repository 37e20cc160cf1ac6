"""tuspyserver as its README mounts it; the folder of the uploads comes from the environment (FILES_DIR)."""

from __future__ import annotations

import os

from fastapi import FastAPI
from tuspyserver import create_tus_router  # type: ignore[import-not-found]  # it lives in an environment of its own

app = FastAPI()
app.include_router(create_tus_router(prefix="files", files_dir=os.environ["FILES_DIR"]))
