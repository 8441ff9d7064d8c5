"""Nine nodes, one thread, one seed, virtual time: the real consensus, ledger and log code under every kind of fault."""
