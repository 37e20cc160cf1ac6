"""A plain Starlette app that takes uploads at /files and lists what has arrived at /.

    pip install '.[server]'                                # in a checkout
    uvicorn --http tusserver.server.protocol:TusHttpProtocol examples.starlette_app:app

Then upload to http://127.0.0.1:8000/files with any tus client and look at http://127.0.0.1:8000/.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tusserver import CreationRejected, Expiry, FileStore, Limits, Tus, Upload

DATA = Path("uploads")

arrived: list[str] = []
"""Names of what arrived since the start. An app of yours has a database for this."""


async def before_create(upload: Upload) -> None:
    """Refuse what we do not want, before a byte of it is here. The name is whatever a client says."""
    if not upload.metadata.name:
        raise CreationRejected("name your file: send a filename in Upload-Metadata")


async def on_finished(upload: Upload) -> None:
    """Do something with an upload. It may be called again if the server dies meanwhile, so it asks whether it did."""
    line = f"{upload.metadata.name} ({upload.length} bytes, {upload.id})"
    if line not in arrived:
        arrived.append(line)


async def index(request: Request) -> PlainTextResponse:
    return PlainTextResponse("".join(f"{line}\n" for line in arrived))


tus = Tus(
    FileStore(DATA),
    limits=Limits(max_size=10 * 1024**3),
    expiry=Expiry(after=timedelta(days=1), keep_finished=timedelta(days=30)),
    before_create=before_create,
    on_finished=on_finished,
)
app = Starlette(routes=[Route("/", index), tus.route("/files")], lifespan=tus.lifespan)
