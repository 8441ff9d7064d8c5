"""Where bytes rest: protocols, LevelDB, memory."""
