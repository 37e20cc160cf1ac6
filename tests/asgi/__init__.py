"""Tus under every kind of ASGI server: the same bodies by another way."""
