"""Where a Keras network is cut: at its last maps and at the maps of the stage before."""

import numpy as np

from helpers import InputError

# Layers that only change the edges of maps; a cut is never behind one.
_EDGES = ("ZeroPadding2D", "Cropping2D")
# The name of the layer that preprocesses the pixels.
PREPROCESS = "preprocess"


def flattened(network, pictures):
    """The symbolic outputs for ``pictures`` of a copy of a network, with the same weights and no models inside models.

    A layer that is used twice becomes two layers.
    """
    import keras
    names, made = set(), {}

    def call(layer, *inputs, **options):
        if isinstance(layer, keras.Sequential):
            outputs, = inputs
            for one in layer.layers:
                outputs = call(one, outputs)
        elif isinstance(layer, keras.Model) and hasattr(layer, "inputs"):
            given = keras.tree.pack_sequence_as(layer.input, keras.tree.flatten(inputs))
            keras.models.clone_model(layer, given, clone_function=lambda one: one, call_function=call)
            # The model that Keras returns is another copy, without these pictures.
            outputs = made[next(id(one) for one in layer.operations if one.output is layer.outputs[0])]
        else:
            config = layer.get_config()
            while config["name"] in names:
                config["name"] += "_again"
            names.add(config["name"])
            copy = layer.__class__.from_config(config)
            outputs = copy(*inputs, **options)
            if getattr(copy, "weights", None):
                copy.set_weights(layer.get_weights())
        made[id(layer)] = outputs
        return outputs

    return call(network, pictures)


def on_every_path(network) -> list:
    """The layers on every path from the pictures to the output, in order."""
    import keras
    order = list(network.operations)
    made_by = {id(tensor): i for i, layer in enumerate(order) for tensor in keras.tree.flatten(layer.output)}
    last_reader = list(range(len(order)))
    for i, layer in enumerate(order):
        for tensor in keras.tree.flatten(layer.input):
            last_reader[made_by[id(tensor)]] = i
    # Later layers read nothing that was computed before such a layer.
    return [layer for i, layer in enumerate(order) if max(last_reader[:i], default=0) <= i]


def ends(network, named: str = None) -> tuple:
    """The layer before the last stage of a network, or None, and the layers to read features from.

    ``named`` are one or two layers as the user wrote them, ``a`` or ``a+b``. Without it they are the last maps, and the
    last larger ones before them.
    """
    order = list(network.operations)
    # For each layer, how many have weights up to it.
    learned = dict(zip(order, np.cumsum([_has_weights(layer) for layer in order])))
    spatial = [layer for layer in on_every_path(network)
               if learned[layer] and _area(layer) > 1 and type(layer).__name__ not in _EDGES]
    layers = _named(network, named) if named else [_last_maps(spatial, learned)]
    # Without weights between these and the last maps there would be nothing to fine-tune.
    larger = [layer for layer in spatial
              if _area(layer) > _area(layers[-1]) and learned[layer] < learned[layers[-1]]]
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


def _last_maps(spatial, learned):
    """The last maps, or those before the last weights of a classifier that averages one map for each class."""
    if not spatial:
        raise InputError(
            "expected a network whose convolutions give maps (height, width, channels), got one without such a layer "
            "on every path. Name the layer to read features from behind the path as #layer=<name>, or take the "
            "embedded default mobilenet.")
    order, last = list(learned), spatial[-1]
    if learned[last] == learned[order[-1]] and any(map(_is_softmax, order[order.index(last) + 1:])):
        return ([layer for layer in spatial if learned[layer] < learned[last]] or spatial)[-1]
    return last


def _has_weights(layer):
    """Whether a layer has weights, other than those that preprocess the pixels."""
    prepares = layer.name == PREPROCESS or type(layer).__name__ == "Normalization"
    return bool(getattr(layer, "weights", None)) and not prepares


def _is_softmax(layer):
    return type(layer).__name__ == "Softmax" or getattr(getattr(layer, "activation", None), "__name__", "") == "softmax"


def _area(layer):
    """Height times width of the maps that a layer gives; 1 for other outputs."""
    shape = getattr(layer.output, "shape", ())
    return int(np.prod(shape[1:3])) if len(shape) == 4 and None not in shape[1:3] else 1


def pooled(layers: list):
    """Symbolic features: the maps of each layer, averaged over the picture, beside each other."""
    import keras
    found = [keras.layers.GlobalAveragePooling2D()(layer.output) if len(layer.output.shape) == 4 else layer.output
             for layer in layers]
    return found[0] if len(found) == 1 else keras.layers.Concatenate()(found)
