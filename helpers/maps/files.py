"""Maps as files for other programs: GeoTIFF and GeoParquet, with styles for QGIS beside them."""

import html
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import rasterio.transform

from helpers.files import whole_file, write_whole
from helpers.land.classes import SCORE_RAMP
from helpers.land.grid import TILE_M, TileGrid, tile_polygons
from helpers.maps.new_development import RANKED

NODATA = 255


def write_map(path: Path, grid: TileGrid, crs: str, legend: dict, tags: dict, description: str):
    """Write a map with one pixel for each tile as a Cloud-Optimized GeoTIFF with a colour table, whole or not at all.

    The ``legend`` is a dict from value to ``(name, "#rrggbb")``. Its names become tags beside the others, as
    ``VALUE_0`` and so on; values of the ``grid`` that are not in it become nodata. ``description`` is the band's.
    """
    values = np.where(np.isin(grid.values, list(legend)), grid.values, NODATA).astype(np.uint8)
    height, width = values.shape
    placed = rasterio.transform.from_origin(grid.left_col * TILE_M, (grid.top_row + 1) * TILE_M, TILE_M, TILE_M)
    names = {f"VALUE_{value}": name for value, (name, _) in legend.items()}
    # Overviews take the commonest value, because an average of class ids means nothing.
    layout = dict(driver="COG", compress="DEFLATE", overview_resampling="MODE")
    with whole_file(path) as part, rasterio.open(part, "w", width=width, height=height, count=1, dtype="uint8", crs=crs,
                                                 transform=placed, nodata=NODATA, **layout) as file:
        file.write(values, 1)
        file.write_colormap(1, {value: (*bytes.fromhex(colour[1:]), 255) for value, (_, colour) in legend.items()})
        file.update_tags(**names, AREA_OR_POINT="Area", **tags)
        file.set_band_description(1, description)
    # A GeoTIFF cannot hold the names of categories. GDAL looks for them in a file beside it.
    categories = "".join(f"<Category>{html.escape(legend[value][0] if value in legend else '')}</Category>"
                         for value in range(max(legend) + 1))
    write_whole(f"{path}.aux.xml", f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{categories}</CategoryNames>'
                                   '</PAMRasterBand></PAMDataset>\n'.encode())


def write_tiles(path: Path, tiles: pd.DataFrame, crs: str):
    """Write tiles as GeoParquet, whole or not at all: a square of 224 m for each row, with all columns."""
    with whole_file(path) as part:
        tile_polygons(tiles, crs).to_parquet(part, index=False)


def write_style(path: Path, column: str, calibrated: bool = True):
    """Write a QGIS style that colours squares by a column of 0 to 1: chances if ``calibrated``, else ranks.

    QGIS applies a file ``<name>.qml`` to the GeoParquet file or GeoTIFF of the same name.
    """
    ranges, symbols = "", ""
    for k, colour in enumerate(SCORE_RAMP):
        low, high = k / len(SCORE_RAMP), (k + 1) / len(SCORE_RAMP)
        text = f"{low:.0%} to {high:.0%}" if calibrated else f"{low:.1f} to {high:.1f}, {RANKED}"
        ranges += f'<range lower="{low:.2f}" upper="{high:.2f}" label="{text}" symbol="{k}" render="true"/>'
        rgb = ",".join(map(str, bytes.fromhex(colour[1:])))
        symbols += (
            f'<symbol name="{k}" type="fill" alpha="1"><layer class="SimpleFill" enabled="1"><Option type="Map">'
            f'<Option name="color" type="QString" value="{rgb},255"/>'
            '<Option name="style" type="QString" value="solid"/>'
            '<Option name="outline_color" type="QString" value="125,136,144,255"/>'
            '<Option name="outline_width" type="QString" value="0.1"/></Option></layer></symbol>')
    _write_qml(path, f'<renderer-v2 type="graduatedSymbol" attr="{column}" graduatedMethod="GraduatedColor">'
                     f'<ranges>{ranges}</ranges><symbols>{symbols}</symbols></renderer-v2>')


def write_raster_style(path: Path, legend: dict):
    """Write a QGIS style that names the values of a map, with the legend of ``write_map``."""
    entries = "".join(f'<paletteEntry value="{value}" color="{colour}" label="{html.escape(name)}" alpha="255"/>'
                      for value, (name, colour) in legend.items())
    _write_qml(path, '<pipe><rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1">'
                     f'<colorPalette>{entries}</colorPalette></rasterrenderer></pipe>')


def _write_qml(path, renderer):
    write_whole(path, ('<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM">\n<qgis version="3.34" '
                       f'styleCategories="Symbology">{renderer}</qgis>\n').encode())
