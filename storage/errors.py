"""What may go wrong where bytes are kept, one class per thing a caller does differently."""

from __future__ import annotations

from consensus.errors import GrandestError


class StorageError(GrandestError):
    """An operation on stored bytes failed."""


class ShardMissingError(StorageError):
    """The holder does not have it: ask another."""


class ShardCorruptError(StorageError):
    """Bytes do not match the committed root: rebuild them."""


class NotEnoughShardsError(StorageError):
    """Fewer columns than the coding needs."""

    def __init__(self, needed: int, available: int) -> None:
        super().__init__(f"{needed} columns needed, {available} available")
        self.needed = needed
        self.available = available


class UnsealError(StorageError):
    """A frame or record is not what its key sealed."""


class StoreUnavailableError(StorageError):
    """The disk refused; nothing of the refused write may be relied on."""


class WrongChainError(StorageError):
    """The store was made for another genesis: one of the two is not the one that was meant."""


class StoreFullError(StoreUnavailableError):
    """The disk is nearly full: tenants' writes are refused until space returns."""


class FatalStoreError(StoreUnavailableError):
    """The disk failed to make bytes durable: the process stops and lets the log restart it."""


class CodingLibraryError(StorageError):
    """The erasure coding library is not installed or cannot be loaded; the message says what to do."""


class StoreDamagedError(StoreUnavailableError):
    """A row cannot be read because the bytes on the disk have changed."""
