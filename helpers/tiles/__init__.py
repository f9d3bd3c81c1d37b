"""The tile store, and preparation (notebook 02)."""
