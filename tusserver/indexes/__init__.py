"""Indexes: pointers to uploads, which can be lost and made again."""
