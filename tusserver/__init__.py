"""tusserver: resumable uploads with the tus protocol. This is the public API: what an embedding app may import."""

from tusserver.app import Tus
from tusserver.events import Created, Event, Expired, Finished, Interrupted, Observers, Progressed, Refused, Terminated
from tusserver.indexes.base import OpenUploads
from tusserver.locks.base import Lease, Locker, Preempt
from tusserver.locks.file import FileLocker
from tusserver.locks.memory import MemoryLocker
from tusserver.protocol.errors import CreationRejected, TusError, UploadRejected
from tusserver.protocol.extensions import Extension
from tusserver.protocol.limits import Expiry, Features, Limits, Timeouts
from tusserver.protocol.metadata import Metadata
from tusserver.protocol.upload import Role, Upload, UploadId
from tusserver.stores.base import Store
from tusserver.stores.file.records import Durability
from tusserver.stores.file.store import FileStore
from tusserver.stores.memory import MemoryStore
from tusserver.web.cors import Cors
from tusserver.web.forwarded import Proxies
from tusserver.web.pages import UploadPage

__version__ = "0.1.0"

__all__ = [
    "Cors",
    "Created",
    "CreationRejected",
    "Durability",
    "Event",
    "Expired",
    "Expiry",
    "Extension",
    "Features",
    "FileLocker",
    "FileStore",
    "Finished",
    "Interrupted",
    "Lease",
    "Limits",
    "Locker",
    "MemoryLocker",
    "MemoryStore",
    "Metadata",
    "Observers",
    "OpenUploads",
    "Preempt",
    "Progressed",
    "Proxies",
    "Refused",
    "Role",
    "Store",
    "Terminated",
    "Timeouts",
    "Tus",
    "TusError",
    "Upload",
    "UploadId",
    "UploadPage",
    "UploadRejected",
    "__version__",
]
