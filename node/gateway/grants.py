"""Follows who has granted this gateway: tenants come, change their keys and go as the chain says, and nobody tells it.

    look      every LOOK_SECONDS any node is asked which tenants have granted the gateway's own key
    open      of a tenant that is new, or whose keys or access keys are others: records that holders serve to granted
              clients, sealed to that key; kept in memory alone
    serve     until the grant is gone; other master keys are taken over while requests go on

What cannot be opened yet (holders learn of a grant within a second) is tried again with the next look. A node that
denies a grant is believed: it is the operator's own, and the worst that it can do is not to serve.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from consensus.errors import GrandestError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from node.client.granted import Granted
    from node.client.tenant_chain import GrantedView, TenantChain
    from node.gateway.own_key import OwnKey
    from storage.identifiers import TenantId

    Open = Callable[[GrantedView], Awaitable[Granted | None]]

LOGGER: Final = logging.getLogger(__name__)
LOOK_SECONDS: Final = 1.0
"""As often as holders look whom they are to accept."""


class Serving(Protocol):
    """A tenant that is served: takes other keys, and ends."""

    def renew(self, granted: Granted) -> None:
        """Take over what the tenant has granted by now."""
        ...

    def end(self) -> None:
        """Serve it no more."""
        ...


class Serve(Protocol):
    """Begins to serve a tenant."""

    async def __call__(self, granted: Granted) -> Serving:
        """Serve it from now on."""
        ...


@dataclass(slots=True)
class _Served:
    view: GrantedView
    serving: Serving


class GrantFollower:
    """Serves the tenants that have granted one key."""

    def __init__(self, own: OwnKey, chain: TenantChain, open_granted: Open, serve: Serve) -> None:
        """Follow a key.

        Args:
            own: The gateway's.
            chain: Says who has granted it.
            open_granted: Opens what a tenant has sealed to it.
            serve: Begins to serve a tenant.
        """
        self._own = own
        self._chain = chain
        self._open = open_granted
        self._serve = serve
        self._served: dict[TenantId, _Served] = {}

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._look()
            except GrandestError as error:
                LOGGER.warning("who has granted this gateway cannot be told: %s", error)
            await trio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        views = {view.tenant: view for view in await self._chain.granted(self._own.signing_key.public) if view.keys}
        for tenant in self._served.keys() - views.keys():
            LOGGER.info("tenant %s has taken its grant back", tenant.hex()[:8])
            self._served.pop(tenant).serving.end()
        for tenant, view in views.items():
            known = self._served.get(tenant)
            if known is None or known.view != view:
                await self._take(view, known)

    async def _take(self, view: GrantedView, known: _Served | None) -> None:
        try:
            granted = await self._open(view)
            if granted is None:
                return
            if known is None:
                self._served[view.tenant] = _Served(view, await self._serve(granted))
                LOGGER.info("tenant %s has granted this gateway", view.tenant.hex()[:8])
            else:
                known.serving.renew(granted)
                known.view = view
        except GrandestError as error:
            LOGGER.info("what tenant %s has granted cannot be opened yet: %s", view.tenant.hex()[:8], error)
