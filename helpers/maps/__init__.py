"""Maps, and newly developed land (notebook 06)."""
