"""Training on the drawn pictures: one network, two things to tell, interruptions allowed."""

import time
from pathlib import Path

import numpy as np

from helpers import InputError
from helpers.model import backbones
from helpers.model.small_networks import INPUT_PX, alexnet_small, resnet_small
from helpers.pretraining import files
from helpers.pretraining.dataset import Dataset

BATCH = 32
# How often each stored picture is seen; AlexNet's steps are several times as fast.
PASSES = {"resnet_small": 8, "alexnet_small": 16}
LEARNING_RATE = {"resnet_small": 2e-3, "alexnet_small": 1.5e-3}
# Then the same on fewer and larger pictures, as large as tiles: where a map is 3 or 4 pixels wide, most of what a
# convolution sees is padding, and a network that has known nothing else is at a loss without it.
LARGE_PASSES = 3
LARGE_LEARNING_RATE = 5e-4
# AdamW moves every weight alike, so an output moves with the number of features it is read from: more of them than
# this, AlexNet's, are made smaller, or the first steps throw the outputs about.
FEATURES = 160
WEIGHT_DECAY = 0.02
WARM_UP = 200
SAVE_EVERY = 100


def _with_targets(inputs, features, n_classes, n_statistics):
    """Features brought to one scale, and from them, linearly, the class and the statistics."""
    import keras
    x = keras.layers.BatchNormalization(name="features_bn")(features)
    x = keras.layers.Rescaling(min(1, FEATURES / features.shape[-1]))(x)
    return keras.Model(inputs, [keras.layers.Dense(n_classes, name="class")(x),
                                keras.layers.Dense(n_statistics, name="statistics")(x)])


def _trainer(model, steps, n_classes, learning_rate):
    """The optimiser, and a compiled function that takes one step with it."""
    import keras
    import tensorflow as tf
    warm_up = min(WARM_UP, steps // 10 + 1)
    rate = keras.optimizers.schedules.CosineDecay(
        1e-5, max(1, steps - warm_up), warmup_target=learning_rate, warmup_steps=warm_up)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    optimizer.build(model.trainable_variables)

    @tf.function(reduce_retracing=True)
    def step(pictures, labels, statistics):
        with tf.GradientTape() as tape:
            logits, told = model(tf.cast(pictures, tf.float32), training=True)
            # Each loss is 1 for a network that knows nothing, so neither outweighs the other.
            class_loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)) / np.log(n_classes)
            statistics_loss = tf.reduce_mean((told - statistics) ** 2)
            loss = class_loss + statistics_loss
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, model.trainable_variables), 1.0)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return class_loss, statistics_loss

    return optimizer, step


def _batch(n, step, seed, batch):
    """Indices of one batch; follow from the step, so a resumed training sees what an unbroken one would."""
    a_pass = n // batch
    order = np.random.default_rng([seed, step // a_pass]).permutation(n)
    return order[step % a_pass * batch:][:batch]


def fit(model, data, folder, passes, learning_rate, seed=0, batch=BATCH, progress=print, until=None):
    """Train a model on a dataset, going on from the last state saved in ``folder``.

    Parameters
    ----------
    model : keras.Model
        uint8 or float32 inputs to class logits and statistics.
    data : Dataset
        Or anything with ``len``, ``pictures(indices)``, ``labels`` and ``statistics``.
    folder : pathlib.Path
        Keeps the state of the training.
    passes : float
    learning_rate : float
        After the warm-up.
    seed : int
    batch : int
    progress : callable
    until : int, optional
        Stop after this step, for tests of resuming.
    """
    import tensorflow as tf
    n_classes = int(data.labels.max()) + 1
    steps = max(1, int(passes * (len(data) // batch)))
    optimizer, step = _trainer(model, steps, n_classes, learning_rate)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint)
        progress("going on from step {} of {}".format(int(optimizer.iterations), steps))
    begun, started, losses = int(optimizer.iterations), time.monotonic(), []
    for i in range(begun, min(steps, until or steps)):
        chosen = _batch(len(data), i, seed, batch)
        losses.append([float(loss) for loss in step(data.pictures(chosen), data.labels[chosen],
                                                    data.statistics[chosen])])
        if (i + 1) % SAVE_EVERY == 0 or i + 1 in (steps, until):
            manager.save()
            each = (time.monotonic() - started) / (i + 1 - begun)
            progress("step {} of {}: class loss {:.3f}, statistics loss {:.3f}, {:.0f} pictures/s, "
                     "{:.0f} minutes left".format(i + 1, steps, *np.mean(losses, axis=0), batch / each,
                                                  each * (steps - i - 1) / 60))
            losses = []


def probe(features, labels):
    """Accuracy of a ridge classifier that learns from one half of the pictures of each class and tells the other."""
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    half = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        half[members[:len(members) // 2]] = True
    x, targets = features[half], np.eye(labels.max() + 1)[labels[half]]
    # In the space of the pictures, fewer than the features.
    weights = x.T @ np.linalg.solve(x @ x.T + 30 * np.eye(len(x)), targets)
    return float(((features[~half] @ weights).argmax(axis=1) == labels[~half]).mean())


def _features(network, data):
    """A network's outputs for all pictures of a dataset."""
    batches = [np.arange(i, min(i + BATCH, len(data))) for i in range(0, len(data), BATCH)]
    return np.concatenate([network.predict_on_batch(data.pictures(chosen)) for chosen in batches])


def _tell(pooled, held_out, progress):
    progress("{:.1%} of the pictures of classes it has not seen, told apart linearly (chance: {:.1%})".format(
        probe(_features(pooled, held_out), held_out.labels), 1 / (held_out.labels.max() + 1)))


def _folded(network):
    """Weights of AlexNet with its batch normalisation folded into the convolutions."""
    weights = files.weights_of(network)
    folded = {}
    for i in range(1, 6):
        bn = {kind: weights["bn{}/{}".format(i, kind)] for kind in ("gamma", "beta", "moving_mean", "moving_variance")}
        scale = bn["gamma"] / np.sqrt(bn["moving_variance"] + network.get_layer("bn{}".format(i)).epsilon)
        name = "conv{}/".format(i)
        folded[name + "kernel"] = weights[name + "kernel"] * scale
        folded[name + "bias"] = (weights[name + "bias"] - bn["moving_mean"]) * scale + bn["beta"]
    return folded


class _Maps:
    """The drawn pictures as AlexNet's dense layers see them: maps after ``pool5``, computed once."""

    def __init__(self, maps, data):
        self.pictures, self.labels, self.statistics = maps.__getitem__, data.labels, data.statistics

    def __len__(self):
        return len(self.labels)


def _dense_layers(convolutions, data, folder, small, progress):
    """Weights of ``fc6`` and ``fc7``, trained behind the finished convolutions; what they read is computed once."""
    import keras
    network = alexnet_small()
    untrained = files.weights_of(network)
    backbones.set_weights(network, dict(untrained, **convolutions))
    maps = _features(keras.Model(network.input, network.get_layer("flatten").output), data)
    inputs = keras.Input(maps.shape[1:])
    x = inputs
    for name in ("fc6", "fc7"):
        # Few pictures for so many weights.
        x = network.get_layer(name)(keras.layers.Dropout(0.3, seed=0)(x))
    fit(_with_targets(inputs, x, int(data.labels.max()) + 1, data.statistics.shape[1]), _Maps(maps, data),
        folder / "alexnet_small-dense", 1 if small else 20, LEARNING_RATE["alexnet_small"], progress=progress)
    return {name: value for name, value in files.weights_of(network).items() if name.startswith("fc")}


def pretrain(name, folder, passes=None, small=False, workers=2, seed=0, progress=print, until=None):
    """Draw the pictures, train, write the weights; whatever is there already is used.

    Parameters
    ----------
    name : str
        ``"resnet_small"`` or ``"alexnet_small"``.
    folder : str or pathlib.Path
        For pictures (4 GB), the state of the training, and the result.
    passes : float, optional
        How often each stored picture is seen; as for the embedded weights when not given.
    small : bool
        A rehearsal in a minute, on 20 classes.
    workers : int
        Processes that draw.
    seed : int
        Of initial weights and batches.
    progress : callable
    until : int, optional
        Stop training after this step, for tests of resuming.

    Returns
    -------
    pathlib.Path or None
        The file of weights; None if stopped by ``until``.

    Raises
    ------
    InputError
        If there is no such network.
    """
    if name not in backbones.EMBEDDED:
        raise InputError("expected the name of an embedded backbone ({}), got {!r}. Choose one of them.".format(
            ", ".join(sorted(backbones.EMBEDDED)), name))
    import keras
    folder = Path(folder)
    count = dict(classes=20, n_pictures=4, n_crops=2) if small else {}
    data = Dataset(folder, workers=workers, progress=progress, **count)
    tile = dict(drawn_px=320, stored_px=INPUT_PX, workers=workers, progress=progress)
    large = Dataset(folder, **tile, **(dict(count, n_pictures=2) if small else dict(n_pictures=10, n_crops=2)))
    # Classes of another seed: the network never learns them.
    held_out = Dataset(folder, classes=20 if small else 48, n_pictures=4 if small else 20, n_crops=1, seed=1, **tile)
    keras.utils.set_random_seed(seed)
    network = (resnet_small(None) if name == "resnet_small" else
               alexnet_small(None, dense=False, batch_normalization=True))
    for layer in network.layers:
        # Blocks that begin as identities (Goyal et al. 2017, section 5.1).
        if layer.name.endswith("_3_bn"):
            layer.gamma.assign(layer.gamma * 0)
    pooled = keras.Model(network.input, backbones.pooled_stages(name, network))
    model = _with_targets(network.input, pooled.output, int(data.labels.max()) + 1, data.statistics.shape[1])
    batch = 16 if small else BATCH
    fit(model, data, folder / name, passes or (1 if small else PASSES[name]), LEARNING_RATE[name], seed, batch,
        progress, until)
    if until:
        return None
    _tell(pooled, held_out, progress)
    fit(model, large, folder / (name + "-large"), 1 if small else LARGE_PASSES, LARGE_LEARNING_RATE, seed, batch,
        progress)
    _tell(pooled, held_out, progress)
    path = folder / backbones.EMBEDDED[name]
    if name == "resnet_small":
        files.write_npz(path, files.weights_of(network))
    else:
        convolutions = _folded(network)
        dense = _dense_layers(convolutions, large, folder, small, progress)
        files.write_onnx(path, dict(convolutions, **dense))
    return path
