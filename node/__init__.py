"""One operator's process: everything that touches the world."""
