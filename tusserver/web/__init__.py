"""The web: one ASGI app that reads a request, runs a command and writes the outcome."""
