"""The static STAC catalogue of a drawn world, with the Planetary Computer's property names."""

import datetime
import json

import pystac
import shapely

from helpers.files import whole_file
from helpers.land.classes import NLCD_LEGEND

_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
_BANDS = [{"name": name, "common_name": common} for name, common in
          (("Red", "red"), ("Green", "green"), ("Blue", "blue"), ("NIR", "nir"))]


class _WholeFiles(pystac.stac_io.DefaultStacIO):
    """Writes each file whole: another drawing may write it too, and somebody may read it."""

    def write_text_to_href(self, href, txt):
        with whole_file(href) as part:
            part.write_text(txt, encoding="utf-8")


def write(folder, facts):
    """Write ``counties.geojson``, items and collections, and ``catalog.json`` last, from the facts of units."""
    features = [{"type": "Feature", "properties": {"GEOID": unit["county"], "NAME": unit["name"], "STUSPS": "ZZ"},
                 "geometry": unit["boundary"]}
                for unit in sorted(facts, key=lambda unit: unit["county"]) if "boundary" in unit]
    with whole_file(folder / "counties.geojson") as part:
        part.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    root = pystac.Catalog("sample", "The sample counties: scenes and land cover labels, drawn from a seed.")
    rows = [item for unit in facts for item in unit["items"]]
    for name, text in (("naip", "Aerial scenes of the sample counties, in the manner of the National Agriculture "
                                "Imagery Program."),
                       ("nlcd", "Land cover of the sample counties, in the manner of the National Land Cover "
                                "Database.")):
        items = [_scene_item(folder, row) if name == "naip" else _label_item(folder, row)
                 for row in sorted(rows, key=lambda row: row["id"]) if ("gsd" in row) == (name == "naip")]
        boxes = [item.bbox for item in items]
        days = sorted(item.datetime for item in items)
        extent = pystac.Extent(pystac.SpatialExtent([[min(b[0] for b in boxes), min(b[1] for b in boxes),
                                                      max(b[2] for b in boxes), max(b[3] for b in boxes)]]),
                               pystac.TemporalExtent([[days[0], days[-1]]]))
        collection = pystac.Collection(name, text, extent, license="CC0-1.0")
        collection.add_items(items)
        root.add_child(collection)
    root.normalize_hrefs(str(folder))
    root.make_all_asset_hrefs_relative()
    root.save(pystac.CatalogType.SELF_CONTAINED, stac_io=_WholeFiles())


def _item(row, when, properties):
    outline = shapely.geometry.shape(row["outline"])
    projection = {"proj:code": f"EPSG:{row['epsg']}", "proj:epsg": row["epsg"], "proj:bbox": row["bbox"],
                  "proj:shape": row["shape"], "proj:transform": row["transform"]}
    item = pystac.Item(row["id"], shapely.geometry.mapping(outline), list(outline.bounds), when,
                       dict(properties, **projection))
    item.stac_extensions.append(_PROJECTION)
    return item


def _scene_item(folder, row):
    when = datetime.datetime.fromisoformat(row["acquired"] + "T17:00:00+00:00")
    item = _item(row, when, {"gsd": row["gsd"], "naip:year": str(row["year"]), "naip:state": "zz"})
    item.add_asset("image", pystac.Asset(str((folder / row["path"]).resolve()), "RGBIR COG tile", roles=["data"],
                                         media_type=pystac.MediaType.COG, extra_fields={"eo:bands": _BANDS}))
    return item


def _label_item(folder, row):
    when = datetime.datetime(row["year"], 7, 1, tzinfo=datetime.timezone.utc)
    item = _item(row, when, {"nlcd:year": row["year"], "gsd": 30})
    legend = [{"value": code, "description": name} for code, (name, _) in sorted(NLCD_LEGEND.items())]
    item.add_asset("landcover", pystac.Asset(str((folder / row["path"]).resolve()), "Land cover", roles=["data"],
                                             media_type=pystac.MediaType.COG,
                                             extra_fields={"classification:classes": legend}))
    return item
