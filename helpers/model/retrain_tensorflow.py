"""Transfer learning in TensorFlow: a frozen backbone, a new head, and fine-tuning of the last stage."""

import contextlib
import itertools
import os

import numpy as np

from helpers.model.cntk_process import silent

# Pictures that pass through a network at once: ResNet-50 then takes about 1 GB of memory.
BATCH = 32


def start_tensorflow(threads: int = None) -> list:
    """Import TensorFlow without its start-up messages; the devices that it found, ``"CPU"`` or ``"GPU"`` for each.

    The number of ``threads``, by default all cores, is fixed once TensorFlow has computed something.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with silent(2):  # TensorFlow's C++ part writes there before it reads its own log level.
        import tensorflow as tf
        import keras
        devices = [device.device_type for device in tf.config.list_physical_devices()]
    tf.get_logger().setLevel("ERROR")
    # A user's ~/.keras/keras.json may say otherwise.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    if threads is not None:
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
    return devices


def augment(tiles: np.ndarray, seed, rows=None) -> np.ndarray:
    """One changed copy of each square uint8 tile: turned, mirrored, and seen through another sensor.

    Land looks the same from the air whichever way is up, so the eight turns and mirrorings keep the label. Light, haze
    and sensor differ between counties and years, so brightness, contrast and the balance of the colours change too. A
    copy depends on the seed and on the tile's number, one of ``rows`` or else its place in ``tiles``.
    """
    changed = np.empty_like(tiles)
    for i, (tile, row) in enumerate(zip(tiles, range(len(tiles)) if rows is None else rows)):
        rng = np.random.default_rng(np.append(seed, row))
        turned = np.rot90(tile, rng.integers(4))
        if rng.integers(2):
            turned = turned[:, ::-1]
        levels = turned.astype(np.float32) / 255
        grey = levels.mean(axis=2, keepdims=True)
        levels = grey + (levels - grey) * np.float32(rng.uniform(0.4, 1.4))
        levels = np.clip(levels * rng.uniform(0.8, 1.25, 3).astype(np.float32), 0, 1) ** np.float32(
            rng.uniform(0.7, 1.4))
        centre = levels.mean()
        levels = centre + (levels - centre) * np.float32(rng.uniform(0.6, 1.5)) + np.float32(rng.uniform(-0.12, 0.12))
        changed[i] = np.clip(levels * 255, 0, 255)
    return changed


def batches(tiles, labels: np.ndarray = None, seed: int = None, shuffle: bool = False):
    """A ``tf.data.Dataset`` of tiles in batches, with their labels if given, read while the network computes.

    Parameters
    ----------
    tiles : (N, height, width, 3) uint8 RGB, in memory or as ``helpers.tiles.pixels`` reads them.
    seed : Change each tile as ``augment`` does; None leaves the tiles as they are.
    shuffle : Give each epoch another order and other changes, for training.
    """
    import tensorflow as tf
    times = itertools.count()

    def generate():
        time = next(times) if shuffle else 0
        order = np.random.default_rng([seed or 0, time]).permutation(len(tiles)) if shuffle else np.arange(len(tiles))
        for start in range(0, len(tiles), BATCH):
            rows = order[start:start + BATCH]
            some = tiles[rows] if seed is None else augment(tiles[rows], [seed, time] if shuffle else seed, rows)
            yield some if labels is None else (some, labels[rows])

    of_tiles = tf.TensorSpec((None,) + tuple(tiles.shape[1:]), tf.uint8)
    dataset = tf.data.Dataset.from_generator(
        generate, output_signature=of_tiles if labels is None else (of_tiles, tf.TensorSpec((None,), tf.int64)))
    options = tf.data.Options()
    # TensorFlow's tuning thread sleeps for 10 ms, then each time twice as long. The end of the data often waits for it,
    # up to as long as reading them took. There is nothing to tune: two batches are always read in advance.
    options.autotune.enabled = False
    return dataset.apply(tf.data.experimental.assert_cardinality(-(-len(tiles) // BATCH))).prefetch(2).with_options(
        options)


def compute(network, tiles, seeds=(None,)) -> np.ndarray:
    """Outputs of a network on tiles, float32, for one seed of ``batches`` after another."""
    import tensorflow as tf
    run = as_graph(lambda some: network(tf.cast(some, tf.float32), training=False), tiles.shape[1:])
    return np.concatenate([run(some)[0].numpy() for seed in seeds for some in batches(tiles, seed=seed)])


def as_graph(function, tile_shape: tuple):
    """A function of uint8 tiles as a graph with constant weights: TensorFlow then joins layers, and runs faster."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
    specification = tf.TensorSpec((None, *tile_shape), tf.uint8, name="tiles")
    return convert_variables_to_constants_v2(tf.function(function).get_concrete_function(specification))


def new_head(features: np.ndarray, n_classes: int, seed: int):
    """A head that scales features (N, n_features) like these to mean 0 and deviation 1, and has one dense layer."""
    import keras
    return keras.Sequential([
        keras.Input((features.shape[1],)),
        keras.layers.Normalization(mean=features.mean(axis=0), variance=features.var(axis=0) + 1e-6),
        keras.layers.Dense(n_classes, activation="softmax", name="probabilities",
                           kernel_initializer=keras.initializers.GlorotUniform(seed),
                           kernel_regularizer=keras.regularizers.L2(1e-3)),
    ], name="head")


def train(network, data, validation, seed: int, epochs: int, learning_rate: float) -> dict:
    """Train a network by Adam with a learning rate that falls to zero along a cosine.

    The data are inputs and labels in memory, or a dataset of ``batches``. ``validation`` is measured after each epoch
    of data in memory, and only once, at the end, of a dataset, which takes longer. It chooses nothing. The history has
    lists of ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy``.
    """
    import keras
    keras.utils.set_random_seed(seed)
    inputs, labels = data if isinstance(data, tuple) else (data, None)
    in_memory = labels is not None
    steps = epochs * (-(-len(labels) // BATCH) if in_memory else len(inputs))
    network.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
                    loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = network.fit(inputs, labels, batch_size=BATCH if in_memory else None, shuffle=in_memory, epochs=epochs,
                          validation_data=validation, validation_freq=1 if in_memory else epochs, verbose=0)
    return {key: [float(v) for v in values] for key, values in history.history.items()}


def with_head(network, last_stage: list, head):
    """A backbone's network and a copy of a trained head, in which only the last stage and the head may learn.

    Batch normalisation keeps its statistics: those of a few hundred tiles would be worse.
    """
    import keras
    copy = keras.models.clone_model(head)
    copy.set_weights(head.get_weights())
    for layer in network.layers:
        layer.trainable = layer in last_stage and not isinstance(layer, keras.layers.BatchNormalization)
    return keras.Sequential([network, copy])


def assemble(network, input_px: int):
    """The network to save, from uint8 tiles to probabilities."""
    import keras
    tiles = keras.Input((input_px, input_px, 3), dtype="uint8", name="tiles")
    # Rescaling by 1 turns uint8 into float32 inside the saved network.
    return keras.Model(tiles, network(keras.layers.Rescaling(1.0, dtype="float32", name="to_float")(tiles)))
