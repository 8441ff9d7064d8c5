from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp

from hypercorn.config import Config

async def serve(app: ASGIApp, config: Config, *, shutdown_trigger: Callable[[], Awaitable[None]], mode: str) -> None: ...
