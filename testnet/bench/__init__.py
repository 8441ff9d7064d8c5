"""What `grandest bench` measures: one file per measurement, each run in a fresh client process on a running testnet."""
