"""Sentences of notebook 06 about a run's own numbers: each is computed, so that it holds for every county."""

import re

import numpy as np
import pandas as pd

from helpers.land.classes import GROUPS

# Scores between these are neither sure nor hopeless.
UNSURE = 0.2, 0.8


def county_as_text(facts: dict) -> str:
    """What a title calls the county of a tile store's manifest: by its name where the manifest has one."""
    name, fips = facts.get("name"), facts["county"]
    if not name:
        return f"County {fips}"
    # Louisiana has parishes and Alaska boroughs, and from 510 on the codes are those of independent cities.
    is_county = re.fullmatch(r"\d{5}", fips) and fips[:2] not in ("02", "22") and fips[2:] < "510"
    return f"{name} County" if is_county else name


def smoothing_as_text(agree: dict, smoothed: dict) -> str:
    """Whether smoothing has brought the maps of each year nearer to the labels."""
    def one(year):
        before, after = f"{agree[year]:.1%}", f"{smoothed[year]:.1%}"
        if before == after:
            return f"In {year} smoothing leaves the agreement with the labels at {before}."
        did = "raises" if smoothed[year] > agree[year] else "lowers"
        return f"In {year} smoothing {did} the agreement with the labels from {before} to {after}."
    return " ".join(map(one, agree))


def temperature_as_text(temperature: float, before: float, after: float) -> str:
    """What a temperature does, and whether it has lowered the calibration error of tiles that did not choose it."""
    effect = ("leaves the probabilities nearly as they are" if 0.98 <= temperature <= 1.02 else
              f"makes the probabilities {'less' if temperature > 1 else 'more'} sure")
    shown = f"{before:.1%}", f"{after:.1%}"
    if shown[0] == shown[1]:
        result = f"stays at {shown[0]}: the network needed no correction here"
    elif after < before:
        result = f"falls from {shown[0]} to {shown[1]}: the probabilities became more reliable"
    else:
        result = f"rises from {shown[0]} to {shown[1]}: the network needed no correction here"
    return (f"The temperature of {temperature:.2f} {effect}. The calibration error, of tiles that had no part in "
            f"choosing it, {result}.")


def reliability_as_text(name: str, scores, outcomes) -> str:
    """How scores that are neither sure nor hopeless compare with the share of them that is true."""
    scores, outcomes = np.asarray(scores, dtype=float), np.asarray(outcomes, dtype=bool)
    unsure = (scores >= UNSURE[0]) & (scores <= UNSURE[1])
    low, high = (f"{100 * edge:.0f}" for edge in UNSURE)
    if unsure.sum() < 10:
        return (f"{name}: of {len(scores):,} tiles only {unsure.sum()} have a value from {low} to {high} %, too few to "
                "judge the middle of the chart.")
    said, came, n = scores[unsure].mean(), outcomes[unsure].mean(), int(unsure.sum())
    # Two standard deviations of such a share, if the scores were right.
    chance = 2 * np.sqrt(said * (1 - said) / n)
    verdict = ("that is no more than chance explains" if abs(came - said) <= chance else
               "the values are too low there" if came > said else "the values are too high there")
    return (f"{name}: of {len(scores):,} tiles, {n:,} have a value from {low} to {high} %. On average they say "
            f"{said:.0%}, and {came:.0%} are true: {verdict}.")


def errors_as_text(labels: pd.Series, predicted: pd.Series) -> str:
    """How many map groups are not as labelled, and which kind of error is the commonest."""
    pairs = pd.DataFrame({"label": labels.to_numpy(), "predicted": predicted.to_numpy()}).dropna()
    wrong = pairs[pairs["label"] != pairs["predicted"]]
    if not len(wrong):
        return f"All {len(pairs):,} tiles have the group of their label."
    counts = wrong.value_counts()
    (label, taken), n = counts.index[0], counts.iloc[0]
    names = {group.group_id: group.name for group in GROUPS}
    return (f"{len(wrong):,} of {len(pairs):,} tiles differ from their label. The commonest kind, {n:,} tiles: "
            f"labelled {names[int(label)]}, taken for {names[int(taken)]}.")


def signs_as_text(neighbours: float, pictures: float) -> str:
    """Which way two terms count, by their coefficients, and why that may be against a tile."""
    return ("In this run, changed neighbours count " + (
        "**for** a tile: new land comes in groups." if neighbours >= 0 else
        "**against** a tile. The model compares tiles whose own cells look alike. Of two such training tiles, the one "
        "beside new land was less often new itself. A likely cause: near a new quarter, roads and bare soil look new "
        "too.") + " Pictures that differ as a whole count " + (
        "**for** a tile: much in it has changed." if pictures >= 0 else
        "**against** a tile. A likely cause: another light or season makes cells look new that are not."))


def performance_as_text(figures: dict, by_size: pd.DataFrame) -> str:
    """How the score compares with the rule of 2017, by ``new_development.performance`` and ``recall_by_size``."""
    def share(value):
        return "none" if np.isnan(value) else f"{value:.0%}"
    text = (f"The rule finds {share(figures['baseline_recall'])} of the newly developed tiles, and "
            f"{share(figures['baseline_precision'])} of its candidates are newly developed. The score finds "
            f"{share(figures['recall'])}, and {share(figures['precision'])} of its candidates are newly developed.")
    found = by_size[by_size["tiles"] > 0]
    if len(found):
        worst = found["recall"].idxmin()
        text += (f" The score misses most among *{worst}*: it finds {found.loc[worst, 'recall']:.0%} of these "
                 f"{found.loc[worst, 'tiles']} tiles, and the rule {found.loc[worst, 'baseline_recall']:.0%}.")
    ours, theirs = figures["area_error"], figures["baseline_area_error"]
    if not np.isnan(ours + theirs):
        nearer = "the score's" if abs(ours) < abs(theirs) else "the rule's"
        text += (f" The county's total of new land is off by {ours:+.1%} by the score and by {theirs:+.1%} by the "
                 f"rule, so {nearer} is nearer.")
    return text
