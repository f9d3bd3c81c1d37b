"""The static STAC catalogue of a drawn world, with the Planetary Computer's property names."""

import datetime
import json

import pystac
import shapely

from helpers.files import write_whole
from helpers.land.classes import NLCD_LEGEND

_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
_BANDS = [{"name": name, "common_name": common} for name, common in
          (("Red", "red"), ("Green", "green"), ("Blue", "blue"), ("NIR", "nir"))]
_LEGEND = [{"value": code, "description": name} for code, (name, _) in sorted(NLCD_LEGEND.items())]
_COLLECTIONS = {
    "naip": "Aerial scenes of the sample counties, in the manner of the National Agriculture Imagery Program.",
    "nlcd": "Land cover of the sample counties, in the manner of the National Land Cover Database.",
}


class _WholeFiles(pystac.stac_io.DefaultStacIO):
    """Writes each file whole, because another drawing may write the same file, or a user may read it."""

    def write_text_to_href(self, href, txt):
        write_whole(href, txt.encode())


def write(folder, facts):
    """Write ``counties.geojson``, items and collections, and ``catalog.json`` last, from the facts of units."""
    features = [{"type": "Feature", "properties": {"GEOID": unit["county"], "NAME": unit["name"], "STUSPS": "ZZ"},
                 "geometry": unit["boundary"]}
                for unit in sorted(facts, key=lambda unit: unit["county"]) if "boundary" in unit]
    write_whole(folder / "counties.geojson", json.dumps({"type": "FeatureCollection", "features": features}).encode())
    root = pystac.Catalog("sample", "The sample counties: scenes and land cover labels, drawn from a seed.")
    rows = sorted((row for unit in facts for row in unit["items"]), key=lambda row: row["id"])
    for name, text in _COLLECTIONS.items():
        items = [_item(folder, row) for row in rows if ("gsd" in row) == (name == "naip")]
        collection = pystac.Collection(name, text, pystac.Extent.from_items(items), license="CC0-1.0")
        collection.add_items(items)
        root.add_child(collection)
    root.normalize_hrefs(str(folder))
    root.make_all_asset_hrefs_relative()
    root.save(pystac.CatalogType.SELF_CONTAINED, stac_io=_WholeFiles())


def _item(folder, row):
    """The STAC item of a scene, or of a label raster, which has no ``gsd`` of its own."""
    if "gsd" in row:
        when = datetime.datetime.fromisoformat(row["acquired"] + "T17:00:00+00:00")
        properties = {"gsd": row["gsd"], "naip:year": str(row["year"]), "naip:state": "zz"}
        name, title, fields = "image", "RGBIR COG tile", {"eo:bands": _BANDS}
    else:
        when = datetime.datetime(row["year"], 7, 1, tzinfo=datetime.timezone.utc)
        properties = {"nlcd:year": row["year"], "gsd": 30}
        name, title, fields = "landcover", "Land cover", {"classification:classes": _LEGEND}
    properties.update({"proj:code": f"EPSG:{row['epsg']}", "proj:epsg": row["epsg"], "proj:bbox": row["bbox"],
                       "proj:shape": row["shape"], "proj:transform": row["transform"]})
    outline = shapely.geometry.shape(row["outline"])
    item = pystac.Item(row["id"], shapely.geometry.mapping(outline), list(outline.bounds), when, properties,
                       stac_extensions=[_PROJECTION])
    item.add_asset(name, pystac.Asset(str((folder / row["path"]).resolve()), title, roles=["data"],
                                      media_type=pystac.MediaType.COG, extra_fields=fields))
    return item
