"""Where a Keras network is cut: its last maps, the maps of the stage before, and the layers between them."""

from collections import Counter

import numpy as np

from helpers import InputError

# Layers that only change the edges of maps: nothing is cut behind them.
_EDGES = ("ZeroPadding2D", "Cropping2D")
# The name of the layer that prepares the pixels.
PREPROCESS = "preprocess"


def flattened(network, pictures):
    """The symbolic outputs of a copy of a network for ``pictures``, without models inside models.

    The copy has the same weights. A layer that is used twice becomes two layers.
    """
    import keras
    names, made = set(), {}

    def call(layer, *inputs, **options):
        made[id(layer)] = (apply(layer, inputs[0]) if isinstance(layer, keras.Model) and hasattr(layer, "inputs")
                           else copied(layer, inputs, options))
        return made[id(layer)]

    def copied(layer, inputs, options):
        config = layer.get_config()
        while config["name"] in names:
            config["name"] += "_again"
        names.add(config["name"])
        copy = layer.__class__.from_config(config)
        outputs = copy(*inputs, **options)
        if getattr(copy, "weights", None):
            copy.set_weights(layer.get_weights())
        return outputs

    def apply(model, inputs):
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                inputs = call(layer, inputs)
            return inputs
        given = [inputs] if isinstance(model.input, (list, tuple)) else inputs
        keras.models.clone_model(model, given, clone_function=lambda layer: layer, call_function=call)
        # Keras copies the graph once more for the model that it returns, away from these pictures.
        return made[next(id(layer) for layer in model.operations if layer.output is model.outputs[0])]

    return apply(network, pictures)


def on_every_path(network) -> list:
    """The layers that every path from the pictures to the output goes through, in order."""
    import keras
    inputs_of = {layer.name: [] if isinstance(layer, keras.layers.InputLayer) else keras.tree.flatten(layer.input)
                 for layer in network.operations}
    readers = Counter(id(tensor) for inputs in inputs_of.values() for tensor in inputs)
    readers[id(network.outputs[0])] += 1
    waiting, found = Counter(), []
    for layer in network.operations:
        waiting.subtract(id(tensor) for tensor in inputs_of[layer.name])
        outputs = keras.tree.flatten(layer.output)
        waiting.update({id(tensor): readers[id(tensor)] for tensor in outputs})
        waiting = +waiting
        # Nothing else that was computed so far is read later.
        if list(waiting) == [id(outputs[0])]:
            found.append(layer)
    return found


def ends(network, named: str = None) -> tuple:
    """Where a network is cut: the layer before its last stage, or None, and the layers that features are read from.

    ``named`` are one or two layers as the user wrote them, ``a`` or ``a+b``. Without it the graph tells: the last
    maps, and the last larger ones before them.
    """
    order = list(network.operations)
    learned = [i for i, layer in enumerate(order) if _has_weights(layer)]
    spatial = [layer for layer in on_every_path(network) if _area(layer) > 1 and type(layer).__name__ not in _EDGES
               and learned and order.index(layer) >= learned[0]]
    layers = _named(network, named) if named else [_last_maps(spatial, order)]
    last = order.index(layers[-1])
    # Weights lead from each to the last maps: without them there would be nothing to fine-tune.
    larger = [layer for layer in spatial if _area(layer) > _area(layers[-1])
              and any(order.index(layer) < i <= last for i in learned)]
    start = layers[0] if len(layers) > 1 else larger[-1] if larger else None
    return start, layers if named or start is None else [start] + layers


def _named(network, named):
    order = list(network.operations)
    known = {layer.name: layer for layer in order}
    layers = [known.get(name) for name in named.split("+")]
    fits = [layer is not None and len(getattr(layer.output, "shape", ())) in (2, 4) for layer in layers]
    if not all(fits) or len(layers) > 2:
        names = [layer.name for layer in on_every_path(network) if _area(layer) > 1]
        raise InputError(
            f"expected one or two layers (a+b) of {network.name} that give maps or features behind #layer=, got "
            f"{named!r}. Correct it to layers that it has, such as {' and '.join(names[-3:])}.")
    return sorted(layers, key=order.index)


def _last_maps(spatial, order):
    """The last maps; where a classifier averages one map for each class, those before its last weights."""
    if not spatial:
        raise InputError(
            "expected a network whose convolutions give maps (height, width, channels), got one without such a layer "
            "on every path. Name the layer to read features from behind the path as #layer=<name>, or take the "
            "embedded default mobilenet.")
    after = order[order.index(spatial[-1]) + 1:]
    if any(map(_is_softmax, after)) and not any(map(_has_weights, after)):
        classifier = max(i for i, layer in enumerate(order) if _has_weights(layer))
        spatial = [layer for layer in spatial if order.index(layer) < classifier] or spatial
    return spatial[-1]


def _has_weights(layer):
    """Whether a layer has learned something; what it does to the pixels before the network is no part of that."""
    prepares = layer.name == PREPROCESS or type(layer).__name__ == "Normalization"
    return bool(getattr(layer, "weights", None)) and not prepares


def _is_softmax(layer):
    return type(layer).__name__ == "Softmax" or getattr(getattr(layer, "activation", None), "__name__", "") == "softmax"


def _area(layer):
    """Height times width of the maps that a layer gives; 1 of anything else."""
    shape = getattr(layer.output, "shape", ())
    return int(np.prod(shape[1:3])) if len(shape) == 4 and None not in shape[1:3] else 1


def pooled(layers: list):
    """Features, symbolic: the maps of each layer averaged over the picture, one beside the other."""
    import keras
    found = [keras.layers.GlobalAveragePooling2D()(layer.output) if len(layer.output.shape) == 4 else layer.output
             for layer in layers]
    return found[0] if len(found) == 1 else keras.layers.Concatenate()(found)
