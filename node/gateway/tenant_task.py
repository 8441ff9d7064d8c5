"""One tenant as a gateway serves it: its client, index, fence and store, from the moment it is served to its end."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from consensus.quorum import FaultBudget, fault_budget
from node.client.client import client_over
from node.client.granted import Granted, open_grant
from node.client.holders import HolderPool
from node.client.home import ClientHome
from node.client.http_chain import HttpChain
from node.client.records import SealedRecords
from node.client.seats import all_seats
from node.client.shard_links import dialler
from node.client.tenant_chain import HttpTenantChain
from node.gateway.chain_store import ChainStore
from node.gateway.fence import Fence
from node.gateway.follower import Follower, tell_of_walk
from node.gateway.grants import GrantFollower
from node.gateway.home import INDEX_FOLDER, granted_access_keys, granted_home
from node.gateway.index import Index
from node.gateway.lifecycle import run_lifecycle
from node.nurseries import open_plain_nursery
from storage.identifiers import COLUMNS_MAX, SeatIndex, TenantId

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

    from node.client.client import Client
    from node.client.tenant_chain import GrantedView
    from node.gateway.access_keys import AccessKey
    from node.gateway.home import GatewayHome
    from node.gateway.notifications import Outbox
    from node.gateway.own_key import OwnKey
    from node.gateway.store import Store
    from storage.state import SeatState


STOP_SECONDS: Final = 20.0
"""How long requests under way have once their tenant has taken its grant back."""
NOBODY: Final = TenantId(bytes(16))
"""Whoever asks who has granted it speaks for no tenant yet."""


class ServedTenants:
    """Implements Tenants: who is served now."""

    def __init__(self) -> None:
        self._access_keys: dict[str, AccessKey] = {}
        self._stores: dict[TenantId, Store] = {}

    def put(self, tenant: TenantId, store: Store, access_keys: Sequence[AccessKey]) -> None:
        """Serve a tenant by these access keys and no others; a name that another tenant has stays that one's."""
        self._stores[tenant] = store
        kept = {name: known for name, known in self._access_keys.items() if known.tenant != tenant}
        self._access_keys = {one.access_key: one for one in access_keys} | kept

    def remove(self, tenant: TenantId) -> None:
        """Serve a tenant no more."""
        self._stores.pop(tenant, None)
        self._access_keys = {name: known for name, known in self._access_keys.items() if known.tenant != tenant}

    def access_key(self, name: str) -> AccessKey | None:
        """Return an access key by its name."""
        return self._access_keys.get(name)

    def store(self, access_key: AccessKey) -> Store:
        """Return the store of an access key's tenant."""
        return self._stores[access_key.tenant]


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What all tenants share."""

    home: GatewayHome
    http: httpx.AsyncClient
    outbox: Outbox
    tenants: ServedTenants


@dataclass(frozen=True, slots=True)
class Served:
    """Implements Serving."""

    around: Around
    client: Client
    store: Store
    stopping: trio.Event

    def renew(self, granted: Granted) -> None:
        """Take over keys and access keys."""
        self.client.renew_keys(granted.master_keys.keys())
        self.around.tenants.put(self.client.tenant, self.store, granted_access_keys(granted))

    def end(self) -> None:
        """Take no more requests; those under way have STOP_SECONDS."""
        self.around.tenants.remove(self.client.tenant)
        self.stopping.set()


async def serve_tenant(
    around: Around,
    client_home: ClientHome,
    access_keys: Sequence[AccessKey],
    task_status: trio.TaskStatus[Served] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve one tenant until cancelled or ended.

    Args:
        around: What all tenants share.
        client_home: Of the tenant.
        access_keys: By which it is asked for.
        task_status: Told once it is served.
    """
    stopping = trio.Event()
    # What tasks use is closed after they have ended: the index outside the nursery, the client inside.
    async with AsyncExitStack() as kept, open_plain_nursery() as nursery, AsyncExitStack() as stack:
        stack.callback(nursery.cancel_scope.cancel)
        chain = HttpChain(client_home.nodes, client_home.tenant, around.http)
        seats = await all_seats(client_home, around.http)
        connect = dialler([seat.seat for seat in seats], client_home.signing_key, nursery)
        client = await stack.enter_async_context(client_over(client_home, chain, connect, seats))
        directory = around.home.folder / INDEX_FOLDER / client_home.tenant.hex()
        index = await trio.to_thread.run_sync(Index, directory)
        kept.callback(index.close)
        store = ChainStore(client, index, around.home.settings.mode)
        follower = Follower(client, chain, index, store.forget)
        fence = Fence(client.pool, _budget(seats).quorum, follower)
        store.attach(follower, fence, around.outbox)
        for task in (follower.run, fence.run, store.run):
            nursery.start_soon(task)
        nursery.start_soon(run_lifecycle, store)
        nursery.start_soon(tell_of_walk, follower, client_home.tenant, HttpTenantChain(chain))
        around.tenants.put(client_home.tenant, store, access_keys)
        stack.callback(around.tenants.remove, client_home.tenant)
        task_status.started(Served(around, client, store, stopping))
        await stopping.wait()
        await trio.sleep(STOP_SECONDS)


async def follow_grants(around: Around, own: OwnKey, nodes: tuple[str, ...]) -> None:
    """Serve whoever grants a gateway's own key, until cancelled.

    Args:
        around: What all tenants share.
        own: The gateway's.
        nodes: Asked first.
    """
    asked = tuple(dict.fromkeys((*nodes, *own.nodes)))
    async with open_plain_nursery() as nursery:

        async def opened(view: GrantedView) -> Granted | None:
            return await _opened(own, view, asked, around.http)

        async def serve(granted: Granted) -> Served:
            home = granted_home(own, granted, asked)
            served: Served = await nursery.start(serve_tenant, around, home, granted_access_keys(granted))
            return served

        chain = HttpTenantChain(HttpChain(asked, NOBODY, around.http))
        await GrantFollower(own, chain, opened, serve).run()


async def _opened(own: OwnKey, view: GrantedView, nodes: tuple[str, ...], http: httpx.AsyncClient) -> Granted | None:
    """Return what a tenant has sealed to a gateway's own key, asked of the holders; raises as open_grant() does."""
    asking = ClientHome(
        folder=own.folder,
        signing_key=own.signing_key,
        master_keys=(),
        tenant=view.tenant,
        genesis=own.genesis,
        nodes=nodes,
    )
    seats = await all_seats(asking, http)
    async with open_plain_nursery() as links:
        connect = dialler([seat.seat for seat in seats], own.signing_key, links)
        pool = HolderPool(_open_seats(seats), connect, _budget(seats).weak_quorum)
        records = SealedRecords(pool, view.tenant)
        links.start_soon(pool.run)
        links.start_soon(records.run)
        await pool.settle()
        granted = await open_grant(view, own.signing_key, records)
        links.cancel_scope.cancel()
    return granted


def _open_seats(seats: Sequence[SeatState]) -> tuple[SeatIndex, ...]:
    return tuple(SeatIndex(number) for number, seat in enumerate(seats) if seat.closed is None)


def _budget(seats: Sequence[SeatState]) -> FaultBudget:
    return fault_budget(min(len(_open_seats(seats)), COLUMNS_MAX))
