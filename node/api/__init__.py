"""The chain over HTTP and JSON, on every node; see `application.py` for the routes."""
