"""What may go wrong in one operator's process."""

from __future__ import annotations

from consensus.errors import GrandestError


class NodeError(GrandestError):
    """The node cannot do what was asked."""


class ConfigurationError(NodeError):
    """Settings, home directory or clock forbid starting; the message says what to do."""


class PeerUnreachableError(NodeError):
    """A peer did not answer in time."""


class NotFoundError(NodeError):
    """What was named is not there."""


class RefusedError(NodeError):
    """The chain carried what was asked for and refused it, with its reason."""


class DiskFullError(NodeError):
    """A log or record of this node's own does not fit on the disk: the node waits for space and starts again."""


class SnapshotReadyError(NodeError):
    """A whole snapshot was fetched: the node closes everything, installs it and starts again."""


class WriteAheadLogError(NodeError):
    """The log or signer record is damaged; the message names the recovery command."""
