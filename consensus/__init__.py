"""What is agreed and by whom: the pure core of the chain. No clock, entropy, disk, network or logging."""
