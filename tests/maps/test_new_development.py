"""New development: the parts on made-up maps, the whole on the figures of the default run."""

import json
from collections import namedtuple
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest

from helpers import InputError
from helpers.land.grid import TILE_M
from helpers.maps import cells as cells_module, new_development
from helpers.maps.cells import training_views
from helpers.model import evaluation
from helpers.scoring import table as predictions_table
from helpers.tiles import store as tilestore

OTHER_WORLDS = Path(__file__).parents[1] / "notebooks" / "other_worlds.json"
# Limits for new development, here and in the worlds of other seeds. The calibration errors above 0.02 were 0.075 and
# 0.077, of some hundred tiles.
FLOORS = {"precision": 0.85, "recall": 0.80}
CEILINGS = {"false_candidates_ratio": 0.1, "calibration_error": 0.03, "calibration_error_above": 0.12}
MOST_AREA_ERROR = 0.09


def assert_found(figures):
    short = {name: figures[name] for name, floor in FLOORS.items() if not figures[name] >= floor}
    short.update({name: figures[name] for name, most in CEILINGS.items() if not figures[name] <= most})
    assert not short, f"not within {FLOORS} and {CEILINGS}: {short}"


# ---- the default run

def test_the_change_reaches_its_goals(run):
    figures = run.metrics()["change"]
    assert_found(figures)
    assert figures["precision"] > figures["baseline_precision"] and figures["recall"] > 2 * figures["baseline_recall"]
    assert figures["recall_by_size"]["single properties"] >= 0.9


def test_the_goals_can_fail(run):
    figures = run.metrics()["change"]
    for name in ("precision", "recall"):
        with pytest.raises(AssertionError, match=name):
            assert_found(dict(figures, **{name: figures["baseline_" + name]}))
    with pytest.raises(AssertionError, match="calibration_error"):
        assert_found(dict(figures, calibration_error=0.1))


def test_county_totals_are_nearer_than_the_rules(run):
    figures = run.metrics()["change"]
    assert figures["area_error"] == pytest.approx(figures["estimated_km2"] / figures["new_km2"] - 1)
    assert figures["baseline_area_error"] == pytest.approx(figures["baseline_km2"] / figures["new_km2"] - 1)
    assert abs(figures["area_error"]) <= min(MOST_AREA_ERROR, abs(figures["baseline_area_error"]))


def test_a_single_propertys_area_is_about_right(run):
    off = run.metrics()["change"]["area_error_by_size"]
    assert off["single properties"] <= 0.4 and off["50% and more"] <= 0.3
    tiles = geopandas.read_parquet(run.maps / "99007_tiles.parquet")
    labels = tilestore.manifest(run.tiles, "99007", 2010)["labels"]
    truth = pd.read_csv(labels.replace("labels/nlcd_2011_99007.tif", "truth/99007_new_tiles.csv"))
    single = truth[(truth["kind"] == "single") & (truth["share"] >= 0.1)].merge(tiles[tiles["score"] >= 0.5])
    beside = single["new_m2"] / (single["share"] * TILE_M ** 2)
    assert (beside - 1).abs().median() == pytest.approx(off["single properties"])
    assert 0.5e4 < single["new_m2"].median() < 1.1e4  # they are drawn with 0.6 to 1.0 ha


def test_classes_are_calibrated(run):
    """The run measured 0.041, 0.047 and 0.042. With a few hundred tiles in ten steps, chance changes that by 0.02."""
    figures = run.metrics()["map"]
    assert figures["calibration_error"] <= min(0.07, figures["calibration_error_before"])
    mapped = figures["calibration_error_mapped"]
    assert set(mapped) == {"2010", "2016"} and all(year["after"] <= 0.07 for year in mapped.values())


def test_the_figures_counted_again_from_the_files(run):
    """Precision, recall and calibration by plain loops, from the GeoParquet file and the drawn truth."""
    tiles = geopandas.read_parquet(run.maps / "99007_tiles.parquet")
    labels = tilestore.manifest(run.tiles, "99007", 2010)["labels"]
    truth = pd.read_csv(labels.replace("labels/nlcd_2011_99007.tif", "truth/99007_new_tiles.csv"))
    real = {(r, c) for r, c, share in zip(truth["row"], truth["col"], truth["share"]) if share >= 0.1}
    found = {(r, c) for r, c, score in zip(tiles["row"], tiles["col"], tiles["score"]) if score >= 0.5}
    figures = run.metrics()["change"]
    assert len(found & real) / len(found) == pytest.approx(figures["precision"])
    assert len(found & real) / len(real) == pytest.approx(figures["recall"])
    gap = 0
    for k in range(10):
        inside = [((r, c) in real, s) for r, c, s in zip(tiles["row"], tiles["col"], tiles["score"])
                  if k / 10 <= s < (k + 1) / 10 or s == k == 1]
        if inside:
            gap += abs(sum(t for t, _ in inside) - sum(s for _, s in inside)) / len(tiles)
    assert gap == pytest.approx(figures["calibration_error"], abs=1e-6)


@pytest.mark.parametrize("world", ["17", "26"])
def test_the_committed_figures_of_other_worlds_reach_the_goals(world):
    figures = json.loads(OTHER_WORLDS.read_text())[world]
    assert_found(figures["change"])
    # The rule's total may be nearer: in one world its errors on either side cancel each other.
    assert abs(figures["change"]["area_error"]) <= MOST_AREA_ERROR
    assert figures["change"]["area_error_by_size"]["single properties"] <= 0.4


# ---- scores

Tile = namedtuple("Tile", "new_m2 probability_before probability_after group label new_neighbours distance")
TERMS = {"cells": 3.0, "network": 1.5, "label": 0.4, "neighbours": -0.9, "pictures": 0.1}


def test_a_reason_names_what_weighs_most_in_words():
    tile = Tile(14000, 0.031, 0.97, 2, 4, 1, 1.26)
    assert new_development.reason_as_text(tile, TERMS, 2011) == (
        "Reason for: about 1.4 ha look newly built; the probability of Developed goes from 3% to 97%. "
        "Reason against: 1 neighbour changed too, so it may only be the edge of their new land.")
    # A third term that weighs next to nothing is left out, and the order is by weight.
    assert new_development.reason_as_text(tile, dict(TERMS, neighbours=-0.3, label=-4.0), 2011) == (
        "Reason for: about 1.4 ha look newly built; the probability of Developed goes from 3% to 97%. "
        "Reason against: labelled Herbaceous in 2011.")
    assert new_development.reason_as_text(tile, dict(TERMS, network=0.5, neighbours=0), 2011) == (
        "Reason for: about 1.4 ha look newly built; the probability of Developed goes from 3% to 97%.")
    # A reason leaves out a rise that rounds to nothing.
    hidden = tile._replace(probability_before=0.0001, probability_after=0.004)
    assert new_development.reason_as_text(hidden, TERMS, 2011).startswith(
        "Reason for: about 1.4 ha look newly built. Reason against: 1 n")
    unknown = new_development.reason_as_text(Tile(0, np.nan, 0.5, 1, pd.NA, 0, 1), dict(TERMS, cells=-2, label=1), 2011)
    assert unknown == ("Reason for: labelled Cultivated in 2011. Reason against: little of it looks newly built; no "
                       "neighbour changed.")
    for n, term, words in ((2, 3.1, "Reason for: 2 neighbours changed too;"),
                           (0, 3.1, "Reason for: no neighbour changed, so it is not just the edge of other new land;")):
        alone = tile._replace(new_neighbours=n)
        assert new_development.reason_as_text(alone, dict(TERMS, neighbours=term), 2011).startswith(words)


def test_pictures_that_differ_as_a_whole_speak_against_with_their_reason():
    tile = Tile(14000, 0.031, 0.97, 2, 4, 1, 3.6)
    for term, words in ((-2.0, "Reason against: the difference between the two pictures is 3.6 times the usual one here, so "
                         "the tile may only look new."),
                        (2.0, "; the difference between the two pictures is 3.6 times the usual one here;")):
        assert words in new_development.reason_as_text(tile, dict(TERMS, pictures=term, neighbours=0), 2011)


def test_terms_are_coefficients_times_evidence():
    """A model by hand: the terms and the margin of a usual tile add up to the model's own margin."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(3, 2, (200, len(new_development.EVIDENCE))), columns=list(new_development.EVIDENCE))
    scorer = object.__new__(new_development.Scorer)
    counties = table.assign(county=["99001", "99003"] * 100, tile_id="t", extent=table["distance"])
    scorer._fit(counties, 0.1 * (table["distance"] > 4).to_numpy())
    terms = scorer.terms(table)
    assert set(terms) == set(TERMS)
    margin = scorer.model.decision_function(table)
    assert np.allclose(terms.sum(axis=1) + scorer.model[-1].intercept_[0], margin)
    assert np.corrcoef(terms["pictures"], table["distance"])[0, 1] == pytest.approx(1)


def test_a_margin_becomes_a_chance_with_or_without_the_line():
    from sklearn.linear_model import LogisticRegression
    scorer = object.__new__(new_development.Scorer)
    scorer.line = LogisticRegression(C=1e3).fit([[-1.0], [0.0], [1.0], [2.0]], [0, 1, 0, 1])
    scorer.uses_line = False
    assert scorer.chance(np.log(3)) == pytest.approx(0.75) and scorer.chance(np.zeros(2)).tolist() == [0.5, 0.5]
    scorer.uses_line = True
    assert scorer.chance(0.0) == pytest.approx(scorer.line.predict_proba([[0.0]])[:, 1])


def test_the_example_is_the_tile_of_which_a_fifth_is_new():
    """Heads call a cell new if its one feature is 1. There is a tile of 10 cells for each share."""
    shares = [0.0, 0.9, 0.3, 0.2, 0.6]

    class Pair:
        def predict_proba(self, features):
            assert features.shape[1] == 2  # after, and the rise
            return np.stack([1 - features[:, 0], features[:, 0]], axis=1)

    class Kept:
        def strips(self, kept_only):
            assert kept_only
            for rows in ([0, 1], [2, 3, 4]):
                after = np.array([[[[float(i < 10 * shares[k])] for i in range(10)]] for k in rows])
                yield np.array(rows) + 100, np.zeros_like(after), after
    number, before, after = new_development.example(Kept(), cells_module.Heads(None, Pair()))
    assert number == 103 and after.sum() == 2 and before.shape == after.shape == (1, 10, 1)


def made_up(n=400, seed=0):
    """Scores of tiles whose truth follows them, and the truth."""
    rng = np.random.default_rng(seed)
    score = np.sort(rng.random(n) ** 3)[::-1]
    tiles = pd.DataFrame({"tile_id": [f"t{i:03d}" for i in range(n)], "row": np.arange(n) // 20,
                          "col": np.arange(n) % 20, "score": score, "new_m2": 10000.0})
    real = tiles[rng.random(n) < score]
    return tiles, pd.DataFrame({"row": real["row"], "col": real["col"], "share": 0.2, "kind": "single"})


def test_performance_by_hand():
    tiles, _ = made_up(10)
    tiles["score"] = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    truth = pd.DataFrame({"row": 0, "col": [0, 1, 3, 5, 9], "share": [0.3, 0.1, 0.5, 0.2, 0.05]})
    rule = tiles.iloc[[0, 2, 3, 6, 7]]
    found = new_development.performance(tiles, rule, truth)
    assert found["precision"] == 3 / 5 and found["recall"] == 3 / 4  # a share of 5% doesn't count
    assert found["baseline_precision"] == 2 / 5 and found["baseline_recall"] == 1 / 2
    # Our second true candidate is the second of the list, so no false one comes before it. The rule has three.
    assert found["false_candidates_ratio"] == 0
    assert found["new_km2"] == pytest.approx(1.15 * TILE_M ** 2 / 1e6)
    assert found["estimated_km2"] == pytest.approx(10 * 0.01)
    assert found["area_error"] == pytest.approx(0.1 / (1.15 * TILE_M ** 2 / 1e6) - 1)
    assert found["baseline_area_error"] == pytest.approx(5 / 1.15 - 1)
    assert found["baseline_km2"] == pytest.approx(5 * TILE_M ** 2 / 1e6)


def test_false_candidates_are_counted_up_to_the_rules_recall():
    tiles, _ = made_up(10)
    truth = pd.DataFrame({"row": 0, "col": [1, 4], "share": 0.3})
    found = new_development.performance(tiles, tiles.iloc[[1, 4, 6, 7, 8, 9]], truth)
    assert found["false_candidates_ratio"] == 3 / 4


def test_scores_that_keep_their_word_have_little_calibration_error():
    tiles, truth = made_up(4000)
    found = new_development.performance(tiles, tiles[:50], truth)
    assert found["calibration_error"] < 0.03 and found["calibration_error_above"] < 0.06
    shy = new_development.performance(tiles.assign(score=tiles["score"] ** 2), tiles[:50], truth)
    assert shy["calibration_error"] > 0.03 and shy["calibration_error_above"] > 0.06
    bold = new_development.performance(tiles.assign(score=np.sqrt(tiles["score"])), tiles[:50], truth)
    assert bold["calibration_error"] > 0.1


def test_recall_by_size_counts_single_properties_apart():
    tiles, _ = made_up(10)
    truth = pd.DataFrame({"row": 0, "col": range(6), "share": [0.15, 0.15, 0.3, 0.6, 0.05, 0.4],
                          "kind": ["single", "subdivision"] * 3})
    tiles["score"] = [0.9, 0.2, 0.4, 0.8, 0.9, 0.7, 0, 0, 0, 0]
    by_size = new_development.recall_by_size(tiles, tiles.iloc[[3]], truth)
    assert by_size["tiles"].tolist() == [2, 1, 1, 1]
    tile = TILE_M ** 2
    assert by_size["area_error"].tolist() == pytest.approx(
        [abs(1e4 / tile / 0.15 - 1), np.nan, 1 - 1e4 / tile / 0.4, 1 - 1e4 / tile / 0.6], nan_ok=True)
    assert by_size["recall"].tolist() == [0.5, 0, 1, 1] and by_size["baseline_recall"].tolist() == [0, 0, 0, 1]


def test_without_scores_the_rule_stands_in():
    tiles, _ = made_up(10)
    rule = tiles.iloc[[2, 5]].assign(gain=[0.3, 0.9], probability_before=0.1, probability_after=0.9)
    scores = new_development.by_rule(rule, tiles)
    assert scores["tile_id"].tolist()[:2] == ["t005", "t002"] and (scores["score"][2:] == 0).all()
    assert (scores["score"][:2] >= new_development.CANDIDATE).all() and "2017" in scores["reason"][0]


def test_areas_sum_to_what_was_labelled_and_are_no_larger_than_a_tile():
    """Roofs are half of what a label calls new, and some tiles look new and are not."""
    rng = np.random.default_rng(3)
    share = np.where(rng.random(800) < 0.15, rng.uniform(0.1, 1, 800), 0)
    extent = np.where(share > 0, share / 2, np.where(rng.random(800) < 0.1, rng.uniform(0, 0.1, 800), 0))
    evidence = pd.DataFrame(rng.normal(size=(800, 13)), columns=list(new_development.EVIDENCE))
    scorer = object.__new__(new_development.Scorer)
    scorer._fit(evidence.assign(extent=extent, county=["99001", "99003"] * 400, tile_id="t"), share)
    area = scorer.area
    assert area.predict(extent).sum() == pytest.approx(share.sum())
    assert area.predict([0.3, 0.4])[0] == pytest.approx(0.6, abs=0.03) and area.predict([5])[0] <= 1
    assert (np.diff(area.predict(np.linspace(0, 1, 50))) >= 0).all()
    # Few small extents are real, so their areas are small.
    assert area.predict([0.06])[0] < 0.12
    # Each county's areas are read from the curve of the other's.
    fitted = scorer.cross_fitted["new_m2"] / TILE_M ** 2
    assert fitted.sum() == pytest.approx(share.sum(), rel=0.05) and (fitted != area.predict(extent)).any()


def test_neighbours_that_are_missing_are_not_counted():
    tiles = pd.DataFrame({"row": [0, 0, 1, 50, 50], "col": [0, 1, 0, 50, 53]})
    total, there = (new_development._around(tiles, values) for values in (2.0 ** np.arange(5), np.ones(5)))
    assert total.tolist() == [6, 5, 3, 0, 0] and there.tolist() == [2, 2, 2, 0, 0]


def test_one_training_county_is_not_enough():
    with pytest.raises(InputError, match="two training counties"):
        new_development.Scorer([], None)


class Labels:
    """Training counties with labels alone: nothing else may be used."""
    cells = namedtuple("C", "side")(14)
    facts = [{"labels": "before", "crs": None}, {"labels": "after", "crs": None}]

    def __init__(self, county, changed):
        self.county, self.changed = county, changed
        self.tiles = pd.DataFrame({"tile_id": [f"{county}-{i}" for i in range(50)]})


def test_too_few_changed_tiles_are_refused(monkeypatch):
    def labelled(href, tiles, crs, side):
        share = np.zeros((50, side, side), dtype=np.float32)
        share[:int(tiles["tile_id"][0].split("-")[0])] = href == "after"
        return share
    monkeypatch.setattr(new_development, "labelled_cells", labelled)
    monkeypatch.setattr(new_development, "fit_heads", None)
    with pytest.raises(InputError, match="at least 20 newly developed tiles.*got 40 in 40, 19 in 19. Prepare more"):
        new_development.Scorer([Labels("40", 40), Labels("19", 19)], None)
    with pytest.raises(TypeError):  # enough: fitting the heads begins, and the test has removed the function
        new_development.Scorer([Labels("40", 40), Labels("20", 20)], None)


def blocks(run, folder, share, seed=0):
    """A store of the sample's training counties of which blocks of 8 x 8 tiles are left, and its predictions; county
    99003 as if it had been flown in other years."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    predictions, rng, years = [], np.random.default_rng(seed), {2010: 2011, 2016: 2015}
    predicted = predictions_table.read(run.predictions)
    for county in ("99001", "99003"):
        left = None
        for year in (2010, 2016):
            tiles = tilestore.read(run.tiles, county, year)
            block = tiles["row"] // 8 * 10000 + tiles["col"] // 8
            left = rng.permutation(block.unique())[:round(share * block.nunique())] if left is None else left
            tiles = tiles[block.isin(left)].drop(columns=["county", "year"])
            named = years[year] if county == "99003" else year
            into = folder / f"county={county}" / f"year={named}"
            into.mkdir(parents=True)
            table = pa.Table.from_pandas(tiles, schema=tilestore.SCHEMA, preserve_index=False)
            pq.write_table(table, into / "a.parquet")
            facts = {name: value for name, value in tilestore.manifest(run.tiles, county, year).items()
                     if name in ("crs", "labels", "label_year", "split", "scenes", "boundary")}
            tilestore.write_manifest(str(folder), county, named, tiles=len(tiles), **facts)
            one = predicted[(predicted["county"] == county) & (predicted["year"] == year)]
            predictions.append(one.assign(year=named))
    return str(folder), pd.concat(predictions)


def test_counties_of_blocks_with_years_of_their_own_train_a_scorer(run, cells, tmp_path, monkeypatch):
    """Two fifths of the blocks are left, and heads draw a quarter of the cells, to save time. The counties' own tiles
    tell how good it is; each is judged by the other's."""
    monkeypatch.setattr(cells_module, "TRAINING_CELLS", 10_000)
    store, predictions = blocks(run, tmp_path, 0.4)
    views = training_views(cells, store)
    assert [(v.county, v.years) for v in views] == [("99001", (2010, 2016)), ("99003", (2011, 2015))]
    assert all(len(v.tiles) < 400 for v in views)
    fitted = new_development.Scorer(views, predictions).cross_fitted
    real = fitted["new_share"] >= new_development.NEW_SHARE
    found = fitted["score"] >= new_development.CANDIDATE
    figures = {"precision": real[found].mean(), "recall": found[real].mean(),
               "calibration_error": evaluation.calibration_error(fitted["score"], real),
               "area_error": fitted["new_m2"].sum() / (fitted["new_share"].sum() * TILE_M ** 2) - 1}
    print(len(fitted), "tiles,", real.sum(), "newly developed:", figures)
    assert figures["precision"] >= 0.9 and figures["recall"] >= 0.72
    assert figures["calibration_error"] <= 0.05 and abs(figures["area_error"]) <= 0.15


def test_a_few_to_show_are_the_first_and_some_of_the_rest():
    tiles, _ = made_up(40)
    assert new_development.to_show(tiles)["rank"].tolist() == [1, 2, 3, 4, 5, 6, 7, 14, 20, 27, 33, 40]
    assert new_development.to_show(tiles[:9])["rank"].tolist() == list(range(1, 10))
    assert new_development.to_show(tiles[:3])["rank"].tolist() == [1, 2, 3]
