"""Figures for all notebooks: data and ``ax`` in, ``ax`` out.

A figure's function takes the ``matplotlib.axes.Axes`` that the caller made, then the data and a ``title`` that states the
finding, and returns the axes. Colours of classes, groups and codes come from ``land.classes``. Every figure has a
legend or names beside its colours, so that colour never speaks alone.
"""
