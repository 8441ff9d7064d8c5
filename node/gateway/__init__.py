"""S3 over HTTP: the gateway of an operator, or of a customer on its own premises; see `gateway.py`."""
