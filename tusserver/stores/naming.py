"""Readable names for finished files: a template, made safe, never overwriting."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from tusserver.protocol.upload import Upload
from tusserver.stores import disk

FIELDS = ("id", "filename", "stem", "suffix", "year", "month", "day")
_LONGEST = 200
"""Bytes of one name: file systems take 255, and a number may have to fit in."""
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u202a-\u202e\u2066-\u2069]+')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_TRIES = 10_000


class Template:
    """Names like `{year}/{month}/{filename}` below `folder`. Fields: see `FIELDS`; dates are of the creation, in UTC.

    Raises:
        ValueError: the template is wrong; the text names it and the remedy.
    """

    def __init__(self, folder: Path, name: str, folder_mode: int) -> None:
        self._folder = folder
        self._name = name
        self._folder_mode = folder_mode
        try:
            example = name.format(**dict.fromkeys(FIELDS, "x"))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(
                f"finished_name {name!r} cannot be read: its fields may be {{{'}, {'.join(FIELDS)}}}"
            ) from error
        if not example or example.startswith("/") or any(part in ("", ".", "..") for part in example.split("/")):
            raise ValueError(f"finished_name {name!r} must be a relative path without . and ..")
        try:
            disk.make_folder(folder, folder_mode)
        except OSError as error:
            raise ValueError(f"finished_folder {folder} cannot be made: {error.strerror}") from error

    def require_same_file_system(self, other: Path) -> None:
        """Refuse a folder to which files cannot be renamed.

        Raises:
            ValueError
        """
        if os.stat(self._folder).st_dev != os.stat(other).st_dev:
            raise ValueError(f"finished_folder {self._folder} must be on the same file system as {other}")

    def link(self, source: Path, upload: Upload) -> Path:
        """Give a file its readable name beside the one it has; return it.

        Never overwrites and follows no link, as others may write in the folder too. Where the name is taken, " (2)",
        " (3)" … are tried. A name that is this very file already (a crash came between) is taken as given.

        Raises:
            OSError
        """
        *parts, name = self._render(upload).split("/")
        folder = disk.open_folder_below(self._folder, parts, self._folder_mode)
        try:
            name = _link(source, folder, name, upload.id)
        finally:
            os.close(folder)
        return self._folder.joinpath(*parts, name)

    def _render(self, upload: Upload) -> str:
        filename = safe_name(upload.metadata.name or "") or upload.id
        path = Path(filename)
        parts = self._name.format(
            id=upload.id,
            filename=filename,
            stem=path.stem,
            suffix=path.suffix,
            year=f"{upload.created_at:%Y}",
            month=f"{upload.created_at:%m}",
            day=f"{upload.created_at:%d}",
        ).split("/")
        return "/".join(safe_name(part) or upload.id for part in parts)


def _link(source: Path, folder: int, name: str, upload_id: str) -> str:
    """Link a file into an open folder under a name that is free there, or is its own already; return that."""
    wanted = Path(name)
    for number in range(1, _TRIES):
        if number > 1:
            name = f"{wanted.stem} ({number}){wanted.suffix}"
        try:
            os.link(source, name, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            # Not `samefile`: it follows links, and fails where one leads nowhere.
            if os.path.samestat(os.lstat(source), os.stat(name, dir_fd=folder, follow_symlinks=False)):
                return name
            continue
        return name
    name = f"{wanted.stem} {upload_id}{wanted.suffix}"
    os.link(source, name, dst_dir_fd=folder, follow_symlinks=False)
    return name


def safe_name(name: str) -> str:
    """Turn what a client calls a file into one component of a path; empty if nothing is left of it.

    >>> safe_name("../../etc/pass\\0wd")
    'etc_pass_wd'
    """
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    name = _UNSAFE.sub("_", name).strip(" ._")
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    path = Path(name)
    stem, suffix = path.stem, path.suffix
    if len(suffix.encode()) > 32:
        stem, suffix = name, ""
    room = _LONGEST - len(suffix.encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(" .") + suffix
