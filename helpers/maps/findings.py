"""Sentences of notebook 06 about a run's numbers, each built from them, so that it is true for every county."""

import re

import numpy as np
import pandas as pd

from helpers.land.classes import GROUPS, NO_CLASS

# Scores between these are neither sure nor hopeless.
UNSURE = 0.2, 0.8


def county_as_text(facts: dict) -> str:
    """The name of a county for titles, or its code if the tile store's manifest has no name."""
    name, fips = facts.get("name"), facts["county"]
    if not name:
        return f"County {fips}"
    # Louisiana has parishes, Alaska has boroughs, and codes from 510 on belong to independent cities.
    is_county = re.fullmatch(r"\d{5}", fips) and fips[:2] not in ("02", "22") and fips[2:] < "510"
    return f"{name} County" if is_county else name


def smoothing_as_text(agree: dict, smoothed: dict) -> str:
    """Whether smoothing brings the map of each year nearer to the labels."""
    def one(year):
        before, after = f"{agree[year]:.1%}", f"{smoothed[year]:.1%}"
        if before == after:
            return f"In {year}, smoothing leaves the agreement with the labels at {before}."
        verb = "raises" if smoothed[year] > agree[year] else "lowers"
        return f"In {year}, smoothing {verb} the agreement with the labels from {before} to {after}."
    return " ".join(map(one, agree))


def temperature_as_text(temperature: float, before: float, after: float) -> str:
    """The effect of a temperature on probabilities, and on the calibration error of other tiles."""
    effect = ("leaves the probabilities nearly as they are" if 0.98 <= temperature <= 1.02 else
              f"makes the probabilities {'less' if temperature > 1 else 'more'} sure")
    before, after = round(100 * before, 1), round(100 * after, 1)
    change = "stays at" if after == before else f"{'falls' if after < before else 'rises'} from {before}% to"
    verdict = "the probabilities became more reliable" if after < before else "the network needed no correction here"
    return (f"The temperature of {temperature:.2f} {effect}. On tiles that were not used to choose the temperature, "
            f"the calibration error {change} {after}%: {verdict}.")


def reliability_as_text(name: str, scores, outcomes, true: str = "correct") -> str:
    """The mean of the scores that are neither sure nor hopeless, beside the share of their tiles that is ``true``."""
    scores, outcomes = np.asarray(scores, dtype=float), np.asarray(outcomes, dtype=bool)
    unsure = (scores >= UNSURE[0]) & (scores <= UNSURE[1])
    low, high = (f"{100 * edge:.0f}" for edge in UNSURE)
    if unsure.sum() < 10:
        return (f"{name}: only {unsure.sum()} of {len(scores):,} tiles lie between {low} and {high}%, "
                "too few to judge the middle of the chart.")
    said, came, n = scores[unsure].mean(), outcomes[unsure].mean(), int(unsure.sum())
    # Two standard deviations of the share, if the scores are right.
    chance = 2 * np.sqrt(said * (1 - said) / n)
    verdict = ("a difference of this size can be chance" if abs(came - said) <= chance else
               f"the values are too {'low' if came > said else 'high'} there")
    return (f"{name}: {n:,} of {len(scores):,} tiles lie between {low} and {high}%. Their mean is {said:.0%}, and the "
            f"share of these tiles that is {true} is {came:.0%}: {verdict}.")


def errors_as_text(labels: pd.Series, predicted: pd.Series) -> str:
    """The number of tiles whose map group differs from the label, and the most frequent error.

    Tiles without a prediction (``NO_CLASS``) don't count.
    """
    pairs = pd.DataFrame({"label": labels.to_numpy(), "predicted": predicted.to_numpy()}).dropna()
    pairs = pairs[pairs["predicted"] != NO_CLASS]
    wrong = pairs[pairs["label"] != pairs["predicted"]]
    if not len(wrong):
        return f"All {len(pairs):,} tiles have the group of their label."
    counts = wrong.value_counts()
    (label, taken), n = counts.index[0], counts.iloc[0]
    return (f"{len(wrong):,} of {len(pairs):,} tiles get another group than that of their label. The most frequent "
            f"error, with {n:,} tiles: the label is {GROUPS[int(label)].name}, and the model says "
            f"{GROUPS[int(taken)].name}.")


def signs_as_text(neighbours: float, pictures: float) -> str:
    """Whether two terms count for or against a tile, by their coefficients, and a likely cause."""
    return ("In this run, changed neighbours count " + (
        "**for** a tile: new land comes in groups." if neighbours >= 0 else
        "**against** a tile. Of two tiles whose own cells look equally new, the one beside new land gets the lower "
        "score. In the training counties, such a tile was less often really new. A likely cause: beside new houses, "
        "roads and bare soil look new too.") + " Pictures that differ as a whole count " + (
        "**for** a tile: much in it has changed." if pictures >= 0 else
        "**against** a tile. A likely cause: another light or season makes cells look new that are not."))


def performance_as_text(figures: dict, by_size: pd.DataFrame) -> str:
    """The score beside the rule of 2017, by ``new_development.performance`` and ``recall_by_size``."""
    def share(value):
        return "none" if np.isnan(value) else f"{value:.0%}"
    text = (f"The rule finds {share(figures['baseline_recall'])} of the newly developed tiles, and "
            f"{share(figures['baseline_precision'])} of its candidates are newly developed. The score finds "
            f"{share(figures['recall'])}, and {share(figures['precision'])} of its candidates are newly developed.")
    found = by_size[by_size["tiles"] > 0]
    if len(found):
        worst = found["recall"].idxmin()
        text += (f" The score is weakest in the row *{worst}*: it finds {found.loc[worst, 'recall']:.0%} of these "
                 f"{found.loc[worst, 'tiles']} tiles, and the rule {found.loc[worst, 'baseline_recall']:.0%}.")
    ours, theirs = figures["area_error"], figures["baseline_area_error"]
    if not np.isnan(ours + theirs):
        nearer = "the score's" if abs(ours) < abs(theirs) else "the rule's"
        text += (f" The total area of new land in the county has an error of {ours:+.1%} by the score and of "
                 f"{theirs:+.1%} by the rule, so {nearer} total is nearer to the truth.")
    return text
