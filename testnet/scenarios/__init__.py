"""Named disasters, one a file, that nine real processes live through."""
