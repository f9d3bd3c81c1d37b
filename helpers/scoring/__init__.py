"""A prediction for each tile (notebook 05)."""
