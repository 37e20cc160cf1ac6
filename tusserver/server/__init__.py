"""The process around the app: uvicorn, its stop, and the logs."""
