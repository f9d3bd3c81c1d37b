"""Lattices: columns and rows of cells, for the fields and town blocks of a district."""

import numpy as np


class Lattice:
    """The columns and rows of one district's cells, at an angle and gently bent."""

    def __init__(self, rng, angle, size_m, fields):
        self.cos, self.sin = float(np.cos(angle)), float(np.sin(angle))
        self.origin = size_m * 1.05 + 200
        length = int(2.1 * self.origin)
        v = np.arange(length)
        bend = rng.uniform(20, 45) * np.sin(v / rng.uniform(400, 700) + rng.uniform(0, 6))
        self.bend = bend.astype(np.float32)
        self.columns = self._cuts(rng, fields, length)
        self.rows = [self._cuts(rng, (fields[0] * 1.15, fields[1] * 1.3), length) for _ in range(8)]
        self.column_of, self.column_edge = self._tables(self.columns, length)
        tables = [self._tables(rows, length) for rows in self.rows]
        self.row_of = np.array([t[0] for t in tables])
        self.row_edge = np.array([t[1] for t in tables])
        roads = self.columns[int(rng.integers(2, 5))::int(rng.integers(4, 6))]
        self.road_edge = np.abs(np.arange(length)[:, None] + 0.5 - roads[None]).min(axis=1).astype(np.float32)
        self.row_limit = max(len(rows) for rows in self.rows)

    @staticmethod
    def _cuts(rng, widths, length):
        cuts = np.cumsum(rng.uniform(*widths, int(length / widths[0]) + 1))
        return cuts[cuts < length - 1].astype(int)

    @staticmethod
    def _tables(cuts, length):
        at = np.arange(length)
        index = np.searchsorted(cuts, at, side="right")
        padded = np.concatenate([[-9999], cuts, [length + 9999]])
        edge = np.minimum(at + 0.5 - padded[index], padded[index + 1] - at - 0.5)
        return index.astype(np.int16), np.minimum(edge, 3000).astype(np.float32)

    def to_cell(self, x, y):
        """Lattice coordinates (u along rows, v along columns) of positions."""
        v = y * self.cos - x * self.sin + np.float32(self.origin)
        u = x * self.cos + y * self.sin + np.float32(self.origin) + self.bend[v.astype(np.int32)]
        return u, v

    def to_map(self, u, v):
        """Positions of lattice coordinates; undoes ``to_cell``."""
        u, v = np.asarray(u, float), np.asarray(v, float)
        ru = u - self.bend[v.astype(int)] - self.origin
        rv = v - self.origin
        return np.stack([ru * self.cos - rv * self.sin, ru * self.sin + rv * self.cos], axis=-1)

    def keys(self, u, v):
        """Column and row of lattice coordinates as one number, and the distance (m) to the nearest cut."""
        iu, iv = u.astype(np.int32), v.astype(np.int32)
        column = self.column_of[iu]
        variant = column & 7
        row = self.row_of[variant, iv]
        edge = np.minimum(self.column_edge[iu], self.row_edge[variant, iv])
        return column.astype(np.int32) * self.row_limit + row, edge

    def cell_bounds(self, key):
        """``(u0, v0, u1, v1)`` of a cell."""
        column, row = divmod(int(key), self.row_limit)
        rows = self.rows[column & 7]
        ends = [(cuts[i - 1] if i else 0, cuts[i] if i < len(cuts) else cuts[-1] + 200)
                for cuts, i in ((self.columns, column), (rows, row))]
        return ends[0][0], ends[1][0], ends[0][1], ends[1][1]
