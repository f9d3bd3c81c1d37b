"""Figures for all notebooks."""
