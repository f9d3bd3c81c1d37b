"""Figures for all notebooks: the caller's ``ax``, data and a ``title`` that states the finding in; the same ``ax`` out.

Colours of classes, groups and codes come from ``land.classes``. Every figure has a legend or names beside its colours,
so that colour never speaks alone.
"""
