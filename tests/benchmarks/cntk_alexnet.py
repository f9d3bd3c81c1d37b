"""AlexNet at its full size with random weights, as a CNTK bundle: run as ``python3.6 cntk_alexnet.py <folder>``."""

import sys
from pathlib import Path

import numpy as np

from alexnet import write_alexnet
from helpers.model import retrain_cntk as retraining
from helpers.model.cntk_network import get

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    retraining.start_cntk(1)
    write_alexnet(folder / "alexnet.onnx")
    pretrained = get(folder / "alexnet.onnx")
    tiles = np.load(str(folder / "tiles.npy"))[:200]
    features = retraining.compute(pretrained.features(), tiles[:32])
    # Many features of random weights are nearly constant: brought to a deviation of 1 they would show each rounding.
    head = retraining.new_head(np.random.RandomState(0).normal(0, 10 * features.std(), features.shape), 6, 0)
    retraining.save(pretrained, head, folder / "alexnet", tiles, {
        "classes": list("abcdef"), "backbone": {"name": "alexnet, random weights"}})
