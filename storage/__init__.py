"""What is kept and how. Pure, except storage.stores."""
