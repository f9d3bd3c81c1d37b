import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from helpers.figures.places import ranked_places


def test_pairs_lie_in_order_of_their_rank():
    places = pd.DataFrame({"rank": [2, 1], "kind": ["random", "newly_developed"], "rule": [False, True]})
    before = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (10, 20)])
    _, ax = plt.subplots()
    ranked_places(ax, places, before, before + 100, "title", picture_px=64)
    sheet = ax.images[0].get_array()
    row = sheet[sheet.shape[0] - 10, :, 0]
    assert row[[10, 76, 150, 214]].tolist() == [20, 120, 10, 110]
    assert [text.get_text() for text in ax.texts] == ["#1", "newly developed · rule", "#2", "chosen at random"]
    plt.close("all")
