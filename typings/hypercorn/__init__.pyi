"""The part of hypercorn 0.18 that node/api/server.py uses."""
