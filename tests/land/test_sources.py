import pytest

from helpers import InputError
from helpers.land.sources import COVERED

COUNTY = "99001"


def test_a_year_counts_where_its_scenes_cover_the_county(sample, monkeypatch):
    scenes = sample._all_scenes(COUNTY)
    later = [scene for scene in scenes if scene.year == 2016]
    assert len(later) > 1 and sample.nearest_year(COUNTY, 2018) == 2016
    monkeypatch.setattr(sample, "_scenes", lambda county: [scene for scene in scenes if scene.year == 2010] + later[:1])
    shares = sample.covered(COUNTY)
    assert shares[2010] > COVERED > shares[2016] > 0
    assert sample.nearest_year(COUNTY, 2018) == 2010
    with pytest.raises(InputError, match=rf"got scenes from 2010, 2016 \(covering only {shares[2016]:.0%} of the county"
                                         r"\) only"):
        sample.scenes(COUNTY, 2012)
    # Where no year covers it, the one that covers most.
    monkeypatch.setattr(sample, "_scenes", lambda county: later[:1])
    assert sample.nearest_year(COUNTY, 2010) == 2016
