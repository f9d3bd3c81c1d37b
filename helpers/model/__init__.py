"""Backbones, retraining, bundles and engines (notebooks 03 and 04)."""
