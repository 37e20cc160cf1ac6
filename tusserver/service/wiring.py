"""Puts the service together, in one place for `Tus` and for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tusserver.events import Observers
from tusserver.hooks.base import Hooks
from tusserver.indexes.base import OpenUploads
from tusserver.locks.base import Locker
from tusserver.protocol.extensions import Extension, enabled
from tusserver.protocol.limits import Expiry, Features, Limits, Timeouts
from tusserver.protocol.upload import ID_DIGITS
from tusserver.service.concat import Concatenator
from tusserver.service.ids import RandomIds, checked
from tusserver.service.lifecycle import Lifecycle
from tusserver.service.quota import Quota
from tusserver.service.sweeper import Sweeper
from tusserver.service.tuning import Tuning
from tusserver.service.uploads import UploadService
from tusserver.stores.base import Store

_SHORTEST_ID = 1
"""Length of an id that an app makes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All options of a service."""

    limits: Limits = Limits()
    expiry: Expiry = Expiry()
    timeouts: Timeouts = Timeouts()
    features: Features = Features()
    tuning: Tuning = Tuning()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of a service that are used outside of it."""

    uploads: UploadService
    sweeper: Sweeper
    concatenator: Concatenator
    extensions: frozenset[Extension]
    """Those that are offered."""


def wire(
    store: Store,
    locker: Locker,
    open_uploads: OpenUploads,
    hooks: Hooks,
    observers: Observers,
    options: Options,
    *,
    new_id: Callable[[], str] | None,
    now: Callable[[], datetime],
) -> Service:
    """Put a service together. `new_id`: makes the ids of new uploads for an app; None: random ids.

    Raises:
        ValueError: two limits exclude each other, or a name in `features.disable` is no extension.
    """
    limits, expiry, timeouts, features = options.limits, options.expiry, options.timeouts, options.features
    extensions = enabled(store.extensions, features.disable, expires=expiry.after is not None)
    shortest = ID_DIGITS if new_id is None else _SHORTEST_ID
    for name, problem in limits.cross_checks(shortest + 1 if Extension.CONCATENATION in extensions else 0):
        raise ValueError(f"limits.{name} = {getattr(limits, name)} {problem}")
    lifecycle = Lifecycle(store, hooks, observers, expiry, now, options.tuning)
    concatenator = Concatenator(
        store,
        locker,
        lifecycle,
        limits=limits,
        expiry=expiry,
        timeouts=timeouts,
        unfinished=Extension.CONCATENATION_UNFINISHED in extensions,
        delete_parts=features.delete_parts,
        now=now,
    )
    quota = Quota(store, open_uploads, locker, limits, now, options.tuning)
    uploads = UploadService(
        store,
        locker,
        lifecycle,
        concatenator,
        quota,
        limits=limits,
        expiry=expiry,
        timeouts=timeouts,
        new_id=RandomIds() if new_id is None else checked(new_id),
        now=now,
    )
    sweeper = Sweeper(store, locker, lifecycle, concatenator, quota, expiry=expiry, now=now)
    return Service(uploads=uploads, sweeper=sweeper, concatenator=concatenator, extensions=extensions)
