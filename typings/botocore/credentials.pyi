"""What the tests use of botocore's credentials."""

class Credentials:
    def __init__(self, access_key: str, secret_key: str) -> None: ...
