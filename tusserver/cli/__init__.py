"""The command line. Its commands work on the data folder directly, with the same settings as the server."""
