"""The nine together: genesis, cluster, scenarios, the console script."""
