"""The service tells the story of each request. It knows no header, no status and no server."""
