"""libp2p for what is small and prompt, the shard channel for bulk."""
