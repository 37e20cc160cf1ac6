"""The file store: for each upload one preallocated file, and one record beside it."""
