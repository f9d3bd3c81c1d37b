"""Real aerial pictures in folds that keep neighbours together."""

import numpy as np
from PIL import Image


def aerial(real_data):
    """Real aerial pictures, their classes, and a fold for each that keeps neighbours together.

    Neighbouring numbers of a source overlap on the ground, so each source is cut into five runs of numbers; pictures
    that look the same across a cut are joined to one run.
    """
    paths = sorted((real_data / "aerial").glob("*/*.jpg"))
    names = sorted({path.parent.name for path in paths})
    tiles = np.stack([np.asarray(Image.open(p).convert("RGB").resize((224, 224), Image.BILINEAR)) for p in paths])
    source = np.array([path.stem.rsplit("_", 1)[0] for path in paths])
    number = np.array([int(path.stem.rsplit("_", 1)[1]) for path in paths])
    fold = np.empty(len(paths), int)
    for one in np.unique(source):
        members = np.flatnonzero(source == one)
        members = members[np.argsort(number[members])]
        fold[members] = np.arange(len(members)) * 5 // len(members)
    # Near-duplicates: the grey picture at 16 × 16, without its mean and contrast, in any of the eight turns.
    small = tiles.mean(axis=3).reshape(-1, 16, 14, 16, 14).mean(axis=(2, 4))
    turns = [np.rot90(m, k, axes=(1, 2)) for m in (small, small[:, :, ::-1]) for k in range(4)]
    turns = [t.reshape(len(t), -1) - t.reshape(len(t), -1).mean(axis=1, keepdims=True) for t in turns]
    turns = [t / (np.linalg.norm(t, axis=1, keepdims=True) + 1e-9) for t in turns]
    alike = np.max([turns[0] @ t.T for t in turns], axis=0) > 0.9
    for i in range(len(paths)):
        same = np.flatnonzero(alike[i])
        fold[same] = fold[same].min()
    return tiles, np.array([names.index(p.parent.name) for p in paths]), fold


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
