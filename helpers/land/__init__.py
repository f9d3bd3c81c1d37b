"""Classes, grid, scenes and labels (notebook 02)."""
