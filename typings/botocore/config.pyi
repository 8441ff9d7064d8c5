"""What the tests use of botocore's settings."""

class Config:
    def __init__(
        self,
        *,
        max_pool_connections: int = 10,
        retries: dict[str, int] | None = None,
        signature_version: str | None = None,
        s3: dict[str, str | bool] | None = None,
    ) -> None: ...
