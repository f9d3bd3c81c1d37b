"""Figures for all notebooks: each function draws data on the caller's ``ax`` with a ``title``, and returns the ``ax``.

The colours of classes, groups and codes come from ``land.classes``. Every figure has a legend, or names beside its
colours, because not all readers see colours.
"""
