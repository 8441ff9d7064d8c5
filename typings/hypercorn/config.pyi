class Config:
    bind: list[str]
    accesslog: str | None
    errorlog: str | None
    loglevel: str
    keep_alive_timeout: float
    read_timeout: int | None
    backlog: int
    h11_max_incomplete_size: int
    include_server_header: bool
    graceful_timeout: float
    shutdown_timeout: float
