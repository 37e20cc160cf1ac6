"""A FastAPI app with its own login in front of its uploads: each upload belongs to the user who made it.

    pip install '.[server]' fastapi                       # in a checkout
    python -m examples.fastapi_login add-user ada          # asks for a password
    uvicorn --http tusserver.server.protocol:TusHttpProtocol examples.fastapi_login:app

(With `--workers 4`, if you like: what is shared stands in the database and in the data folder.)

Log in, and send the token along with every request (a web page gets it as a cookie and needs to do nothing):

    curl http://127.0.0.1:8000/login --json '{"name": "ada", "password": "…"}'
    Authorization: Bearer TOKEN

Uploads are made at /files/ (with the slash: what is mounted lives below it), and /mine lists what has arrived.

Where the check is done: in `Guard`, an ASGI app around the mounted `Tus`. It sees every request, whatever its method,
before tusserver does, and bodies pass through it unchanged. The owner of an upload is in a table of the app, not in the
upload's metadata, which clients write.
"""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import hmac
import os
import secrets
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tusserver import CreationRejected, FileStore, Limits, Tus, Upload

DATA = Path(os.environ.get("DATA", "data"))
SESSION = 12 * 3600
"""Seconds until a login ends."""

DATA.mkdir(mode=0o700, exist_ok=True)


# accounts ------------------------------------------------------------------------------------------------------------


def query(sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Ask the database and keep what it changed; one connection for each call, so that any thread may."""
    with closing(sqlite3.connect(DATA / "app.db", timeout=10)) as database, database:
        return database.execute(sql, values).fetchall()


query("CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, salt BLOB NOT NULL, password BLOB NOT NULL)")
query("CREATE TABLE IF NOT EXISTS sessions (token BLOB PRIMARY KEY, user TEXT NOT NULL, until REAL NOT NULL)")
query("CREATE TABLE IF NOT EXISTS uploads (id TEXT PRIMARY KEY, user TEXT NOT NULL, name TEXT, size INTEGER)")


def derived(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def add_user(name: str, password: str) -> None:
    salt = secrets.token_bytes(16)
    query("INSERT OR REPLACE INTO users VALUES (?, ?, ?)", name, salt, derived(password, salt))


def log_in(name: str, password: str) -> str | None:
    """Return a new token, or None if the password is wrong. Unknown users take as long as known ones."""
    salt, known = next(iter(query("SELECT salt, password FROM users WHERE name = ?", name)), (bytes(16), b""))
    if not hmac.compare_digest(derived(password, salt), known):
        return None
    token = secrets.token_urlsafe(32)
    query("DELETE FROM sessions WHERE until < ?", time.time())
    query("INSERT INTO sessions VALUES (?, ?, ?)", fingerprint(token), name, time.time() + SESSION)
    return token


def fingerprint(token: str) -> bytes:
    """What is kept of a token, so that a stolen database opens nothing."""
    return hashlib.sha256(token.encode()).digest()


def token_of(connection: HTTPConnection) -> str:
    scheme, _, token = connection.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else connection.cookies.get("session", "")


async def user_of(connection: HTTPConnection) -> str | None:
    """Who asks, by token or cookie."""
    sql = "SELECT user FROM sessions WHERE token = ? AND until > ?"
    rows = await asyncio.to_thread(query, sql, fingerprint(token_of(connection)), time.time())
    return rows[0][0] if rows else None


# uploads -------------------------------------------------------------------------------------------------------------

asking: ContextVar[str] = ContextVar("asking")
"""The user whose request runs."""


async def owns(user: str, ids: Sequence[str]) -> bool:
    marks = ",".join("?" * len(ids))
    sql = f"SELECT count(*) FROM uploads WHERE user = ? AND id IN ({marks})"
    ((count,),) = await asyncio.to_thread(query, sql, user, *ids)
    return bool(count == len(set(ids)))


class Guard:
    """Lets users with a login make uploads, and owners do everything with theirs. To all others they do not exist."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            user = await user_of(HTTPConnection(scope))
            if user is None:
                await PlainTextResponse("log in first", 401)(scope, receive, send)
                return
            upload_id = scope["path"].removeprefix(scope["root_path"]).strip("/")
            if upload_id and not await owns(user, [upload_id]):
                await PlainTextResponse("there is no such upload", 404)(scope, receive, send)
                return
            asking.set(user)
        await self._app(scope, receive, send)


async def before_create(upload: Upload) -> None:
    """A final upload is made of others, and they must be the user's too."""
    if upload.parts and not await owns(asking.get(), upload.parts):
        raise CreationRejected("there is no such part")


async def on_created(upload: Upload) -> None:
    """Note the owner before the client gets the URL. If this fails, nothing is created."""
    await asyncio.to_thread(query, "INSERT INTO uploads (id, user) VALUES (?, ?)", upload.id, asking.get())


async def on_finished(upload: Upload) -> None:
    """It is here. This may run without a request (after a crash, from a sweep) and more than once for an upload."""
    sql = "UPDATE uploads SET name = ?, size = ? WHERE id = ?"
    await asyncio.to_thread(query, sql, upload.metadata.name or "unnamed", upload.length, upload.id)


async def on_gone(upload: Upload) -> None:
    await asyncio.to_thread(query, "DELETE FROM uploads WHERE id = ?", upload.id)


tus = Tus(
    FileStore(DATA),
    limits=Limits(max_size=10 * 1024**3),
    cors=None,  # pages of this app only
    before_create=before_create,
    on_created=on_created,
    on_finished=on_finished,
    on_terminated=on_gone,
    on_expired=on_gone,
)
app = FastAPI(lifespan=tus.lifespan)
app.mount("/files", Guard(tus))


# the rest of the app -------------------------------------------------------------------------------------------------


class Credentials(BaseModel):
    name: str
    password: str


async def logged_in(request: Request) -> str:
    user = await user_of(request)
    if user is None:
        raise HTTPException(401, "log in first")
    return user


@app.post("/login")
async def login(credentials: Credentials, request: Request, response: Response) -> dict[str, str]:
    token = await asyncio.to_thread(log_in, credentials.name, credentials.password)
    if token is None:
        raise HTTPException(403, "name or password is wrong")
    secure = request.url.scheme == "https"
    response.set_cookie("session", token, max_age=SESSION, httponly=True, samesite="strict", secure=secure)
    return {"token": token}


@app.post("/logout")
async def logout(request: Request, response: Response) -> None:
    await asyncio.to_thread(query, "DELETE FROM sessions WHERE token = ?", fingerprint(token_of(request)))
    response.delete_cookie("session")


@app.get("/mine")
async def mine(user: Annotated[str, Depends(logged_in)]) -> list[dict[str, Any]]:
    sql = "SELECT id, name, size FROM uploads WHERE user = ? AND size IS NOT NULL ORDER BY name"
    rows = await asyncio.to_thread(query, sql, user)
    return [{"url": f"/files/{upload_id}", "name": name, "size": size} for upload_id, name, size in rows]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["add-user", name]:
            add_user(name, getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n"))
        case _:
            sys.exit("usage: python -m examples.fastapi_login add-user NAME")
