"""files."""

import html
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
import rasterio.transform

from helpers.files import whole_file
from helpers.figures.maps import SCORE_RAMP
from helpers.land.grid import TILE_M, tile_polygons
from helpers.maps.new_development import RANKED

# ---- maps that others open

def write_map(path, grid, crs, legend, tags=None, nodata=255, description=None):
    """Write a map with one pixel for each tile as a Cloud-Optimized GeoTIFF with a colour table.

    Parameters
    ----------
    path : str or pathlib.Path
        File to write; it appears whole or not at all.
    grid : helpers.change.TileGrid
        ``values``, (height, width) integers, north-up; ``top_row`` and ``left_col`` say where they lie. Values that
        are not in the legend become nodata.
    crs : str
        The county's UTM zone.
    legend : dict
        Value to ``(name, "#rrggbb")``, as ``landcover.NLCD_LEGEND``.
    tags : dict of str, optional
        What else the file says of itself; the legend's names are always in it, as ``VALUE_0`` and so on.
    nodata : int
    description : str, optional
        Of the band.

    Notes
    -----
    GeoTIFF has no place for the names of categories, so they lie in ``<path>.aux.xml``, where GDAL looks for them.
    """
    values = np.where(np.isin(grid.values, list(legend)), grid.values, nodata).astype(np.uint8)
    height, width = values.shape
    profile = dict(driver="GTiff", width=width, height=height, count=1, dtype="uint8", crs=crs, nodata=nodata,
                   transform=rasterio.transform.from_origin(grid.left_col * TILE_M, (grid.top_row + 1) * TILE_M,
                                                            TILE_M, TILE_M))
    names = {f"VALUE_{value}": name for value, (name, _) in legend.items()}
    with whole_file(path) as part, rasterio.MemoryFile() as memory:
        with memory.open(**profile) as plain:
            plain.write(values, 1)
            plain.write_colormap(1, {value: tuple(bytes.fromhex(colour[1:])) + (255,)
                                     for value, (_, colour) in legend.items()})
            plain.update_tags(**dict(names, AREA_OR_POINT="Area", **(tags or {})))
            if description:
                plain.set_band_description(1, description)
        with memory.open() as plain:
            # Overviews of classes take the commonest value: an average of class ids means nothing.
            rasterio.shutil.copy(plain, str(part), driver="COG", compress="DEFLATE", overview_resampling="MODE")
    categories = "".join("<Category>{}</Category>".format(escape(legend[value][0] if value in legend else ""))
                         for value in range(max(legend) + 1))
    with whole_file(str(path) + ".aux.xml") as part:
        part.write_text('<PAMDataset><PAMRasterBand band="1"><CategoryNames>{}</CategoryNames></PAMRasterBand>'
                        '</PAMDataset>\n'.format(categories), encoding="utf-8")


def write_tiles(path, tiles, crs):
    """Write tiles as GeoParquet: a square of 224 m for each row, with all its columns.

    Parameters
    ----------
    path : str or pathlib.Path
        File to write; it appears whole or not at all.
    tiles : pandas.DataFrame
        With ``row`` and ``col``.
    crs : str
        The county's UTM zone.
    """
    with whole_file(path) as part:
        tile_polygons(tiles, crs).to_parquet(part, index=False)


def write_style(path, column, calibrated=True):
    """Write a QGIS style that colours squares by a column of 0 to 1; beside a GeoParquet file of the same name QGIS
    finds it by itself.

    Parameters
    ----------
    path : str or pathlib.Path
        ``<name>.qml``.
    column : str
    calibrated : bool
        Are these chances, or do they only rank?
    """
    ranges, symbols = [], []
    for k, colour in enumerate(SCORE_RAMP):
        low, high = k / len(SCORE_RAMP), (k + 1) / len(SCORE_RAMP)
        text = "{:.0%} to {:.0%}".format(low, high) if calibrated else "{:.1f} to {:.1f}, {}".format(low, high, RANKED)
        ranges.append('<range lower="{:.2f}" upper="{:.2f}" label="{}" symbol="{}" render="true"/>'.format(
            low, high, text, k))
        rgb = ",".join(str(v) for v in bytes.fromhex(colour[1:]))
        symbols.append(
            '<symbol name="{}" type="fill" alpha="1"><layer class="SimpleFill" enabled="1"><Option type="Map">'
            '<Option name="color" type="QString" value="{},255"/><Option name="style" type="QString" value="solid"/>'
            '<Option name="outline_color" type="QString" value="125,136,144,255"/>'
            '<Option name="outline_width" type="QString" value="0.1"/></Option></layer></symbol>'.format(k, rgb))
    _write_qml(path, '<renderer-v2 type="graduatedSymbol" attr="{}" graduatedMethod="GraduatedColor">'
               '<ranges>{}</ranges><symbols>{}</symbols></renderer-v2>'.format(
                   column, "".join(ranges), "".join(symbols)))


def write_raster_style(path, legend):
    """Write a QGIS style that names the values of a map; beside a GeoTIFF of the same name QGIS finds it by itself.

    Parameters
    ----------
    path : str or pathlib.Path
        ``<name>.qml``.
    legend : dict
        Value to ``(name, "#rrggbb")``, as for ``rasters.write_map``.
    """
    entries = "".join('<paletteEntry value="{}" color="{}" label="{}" alpha="255"/>'.format(
                          value, colour, html.escape(name))
                      for value, (name, colour) in legend.items())
    _write_qml(path, '<pipe><rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1"><colorPalette>{}'
               '</colorPalette></rasterrenderer></pipe>'.format(entries))


def _write_qml(path, renderer):
    text = ('<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM">\n<qgis version="3.34" '
            'styleCategories="Symbology">{}</qgis>\n').format(renderer)
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
