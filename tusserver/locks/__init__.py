"""Locks exclude: one request at a time changes an upload."""
