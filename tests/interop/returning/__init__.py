"""Clients that come back: real clients of five languages, over links that pause, break, and deliver late.

`python -m tests.interop.returning` runs all of it several times and prints a table.
"""
