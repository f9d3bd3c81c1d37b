"""Real aerial pictures in folds that keep neighbours together."""

import re

import numpy as np
from PIL import Image


def aerial(real_data, px=224):
    """Real aerial pictures of six classes, their classes, and a fold for each that keeps neighbours together."""
    return by_content(sorted((real_data / "aerial").glob("*/*.jpg")), px)


def uc_merced(real_data, px=224):
    """The same of UC Merced's 21 classes."""
    return by_content(sorted((real_data / "ucm").glob("*/*.jpg")), px)


def by_content(paths, px):
    """Pictures, classes by folder, and folds.

    Neighbouring numbers of a source overlap on the ground, so each source is cut into five runs of numbers; pictures
    that look the same across a cut are joined to one run.
    """
    names = sorted({path.parent.name for path in paths})
    source, number = zip(*(re.fullmatch(r"(.*?)_?(\d+)", path.stem).groups() for path in paths))
    source, number = np.array(source), np.array(number, int)
    fold = np.empty(len(paths), int)
    for one in np.unique(source):
        members = np.flatnonzero(source == one)
        members = members[np.argsort(number[members])]
        fold[members] = np.arange(len(members)) * 5 // len(members)
    tiles = _resized(paths, 224)
    # Near-duplicates: the grey picture at 16 × 16, without its mean and contrast, in any of the eight turns.
    small = tiles.mean(axis=3).reshape(-1, 16, 14, 16, 14).mean(axis=(2, 4))
    turns = [np.rot90(m, k, axes=(1, 2)) for m in (small, small[:, :, ::-1]) for k in range(4)]
    turns = [t.reshape(len(t), -1) - t.reshape(len(t), -1).mean(axis=1, keepdims=True) for t in turns]
    turns = [t / (np.linalg.norm(t, axis=1, keepdims=True) + 1e-9) for t in turns]
    alike = np.max([turns[0] @ t.T for t in turns], axis=0) > 0.9
    for i in range(len(paths)):
        same = np.flatnonzero(alike[i])
        fold[same] = fold[same].min()
    labels = np.array([names.index(path.parent.name) for path in paths])
    return tiles if px == 224 else _resized(paths, px), labels, fold


def _resized(paths, px):
    return np.stack([np.asarray(Image.open(p).convert("RGB").resize((px, px), Image.BILINEAR)) for p in paths])


def linear_accuracy(features, labels, fold, a_class=None, draws=1):
    """Five-fold accuracy of logistic regression on standardised features, trained on all or ``a_class`` pictures."""
    from helpers.model.evaluation import linear_head
    right = []
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        for k in range(5):
            train = np.flatnonzero(fold != k)
            if a_class:
                train = np.concatenate([rng.choice(train[labels[train] == c], a_class, replace=False)
                                        for c in np.unique(labels)])
            held_out = linear_head(features[train], labels[train], features[fold == k])
            right.append(held_out == labels[fold == k])
    return float(np.concatenate(right).mean())
