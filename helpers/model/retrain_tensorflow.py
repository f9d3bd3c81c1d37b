"""Transfer learning in TensorFlow: a frozen backbone, a new head, and fine-tuning of the last stage.

Pictures pass through the frozen layers once; what is trained afterwards is small and quick.
"""

import contextlib
import os

import numpy as np

# Rows that pass through a network at once: bounds memory at about 1 GB with ResNet-50.
BATCH = 32


def start_tensorflow(threads=None):
    """Import TensorFlow without its start-up messages.

    Parameters
    ----------
    threads : int, optional
        Cores that it may use; all by default. Once TensorFlow has computed something it keeps what it has.

    Returns
    -------
    list of str
        The devices it found: ``"CPU"``, and ``"GPU"`` for each graphics card.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _silent_stderr():
        import tensorflow as tf
        devices = [device.device_type for device in tf.config.list_physical_devices()]
    tf.get_logger().setLevel("ERROR")
    if threads is not None:
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
    return devices


@contextlib.contextmanager
def _silent_stderr():
    """Nothing reaches file descriptor 2: TensorFlow's C++ part writes there before it reads its own log level."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def augment(tiles, seed):
    """One changed copy of each tile: turned, mirrored, and seen through another sensor.

    A place looks the same from the air whichever way is up, so the eight turns and mirrorings keep the label. Light,
    haze and sensor differ between counties and years far more than inside one, so brightness, contrast and the
    balance of the colours change too.

    Parameters
    ----------
    tiles : numpy.ndarray
        Shape (N, h, w, 3), uint8, square.
    seed : int

    Returns
    -------
    numpy.ndarray
        Same shape, uint8.
    """
    rng = np.random.default_rng(seed)
    changed = np.empty_like(tiles)
    for i, tile in enumerate(tiles):
        turned = np.rot90(tile, rng.integers(4))
        if rng.integers(2):
            turned = turned[:, ::-1]
        levels = turned.astype(np.float32) / 255
        grey = levels.mean(axis=2, keepdims=True)
        levels = grey + (levels - grey) * rng.uniform(0.4, 1.4)
        levels = np.clip(levels * rng.uniform(0.8, 1.25, 3), 0, 1) ** rng.uniform(0.7, 1.4)
        centre = levels.mean()
        levels = centre + (levels - centre) * rng.uniform(0.6, 1.5) + rng.uniform(-0.12, 0.12)
        changed[i] = np.clip(levels * 255, 0, 255)
    return changed


def compute(network, tiles, dtype="float32"):
    """Pass tiles through a network in batches.

    Parameters
    ----------
    network : keras.Model
        float32 RGB 0 to 255 in.
    tiles : numpy.ndarray
        Shape (N, h, w, 3), uint8.
    dtype : str
        Of the result; feature maps kept for fine-tuning take half the memory as float16.

    Returns
    -------
    numpy.ndarray
        Shape (N, …), the network's outputs.
    """
    import tensorflow as tf
    run = tf.function(lambda x: network(tf.cast(x, tf.float32), training=False), reduce_retracing=True)
    return np.concatenate([run(tiles[i:i + BATCH]).numpy().astype(dtype) for i in range(0, len(tiles), BATCH)])


def new_head(features, n_classes, seed):
    """A head: features brought to mean 0 and deviation 1, then one dense layer with softmax.

    Parameters
    ----------
    features : numpy.ndarray
        Shape (N, n_features), of the training tiles; gives mean and variance.
    n_classes : int
    seed : int
        Of the initial weights.

    Returns
    -------
    keras.Model
        (N, n_features) to (N, n_classes) probabilities.
    """
    import keras
    return keras.Sequential([
        keras.Input((features.shape[1],)),
        keras.layers.Normalization(mean=features.mean(axis=0), variance=features.var(axis=0) + 1e-6),
        keras.layers.Dense(n_classes, activation="softmax", name="probabilities",
                           kernel_initializer=keras.initializers.GlorotUniform(seed),
                           kernel_regularizer=keras.regularizers.L2(1e-3)),
    ], name="head")


def train(network, inputs, labels, validation, seed, epochs, learning_rate, progress=None):
    """Train a network by Adam with a learning rate that falls to zero along a cosine.

    The validation tiles are measured after each epoch and choose nothing: neither the epoch nor a parameter.

    Parameters
    ----------
    network : keras.Model
        To (N, n_classes) probabilities; its trainable layers are changed in place.
    inputs, labels : numpy.ndarray
        (N, …) and (N,) integer.
    validation : tuple of numpy.ndarray
        Inputs and labels of the validation county.
    seed : int
        Of the shuffling.
    epochs : int
    learning_rate : float
        At the start.
    progress : callable, optional
        Called with one line of text for each epoch.

    Returns
    -------
    dict of list of float
        ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``, one value an epoch.
    """
    import keras
    keras.utils.set_random_seed(seed)
    steps = epochs * int(np.ceil(len(labels) / BATCH))
    network.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
                    loss="sparse_categorical_crossentropy", metrics=["accuracy"])

    def tell(epoch, logs):
        progress("epoch {:2d} of {}: accuracy {:.3f}, on the validation county {:.3f}".format(
            epoch + 1, epochs, logs["accuracy"], logs["val_accuracy"]))

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=tell)] if progress else []
    history = network.fit(inputs, labels, batch_size=BATCH, epochs=epochs, validation_data=validation,
                          verbose=0, callbacks=callbacks)
    return {key: [float(v) for v in values] for key, values in history.history.items()}


def with_head(last_stage, head):
    """The last stage of a backbone and a copy of a trained head, to fine-tune together.

    Parameters
    ----------
    last_stage : keras.Model
        From ``Backbone.build_stages``: feature maps to features.
    head : keras.Model

    Returns
    -------
    keras.Model
        Feature maps to probabilities. Batch normalisation keeps the statistics it was pretrained with: those of a few
        hundred tiles would be worse.
    """
    import keras
    copy = keras.models.clone_model(head)
    copy.set_weights(head.get_weights())
    for layer in last_stage.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return keras.Sequential([last_stage, copy])


def assemble(parts, input_px):
    """The network to save: uint8 tiles in, probabilities out.

    Parameters
    ----------
    parts : list of keras.Model
        Applied one after the other; the first takes float32 RGB 0 to 255.
    input_px : int

    Returns
    -------
    keras.Model
    """
    import keras
    tiles = keras.Input((input_px, input_px, 3), dtype="uint8", name="tiles")
    # Rescaling by 1 is Keras's plain way to turn uint8 into float32 inside the saved network.
    outputs = keras.layers.Rescaling(1.0, dtype="float32", name="to_float")(tiles)
    for part in parts:
        outputs = part(outputs)
    return keras.Model(tiles, outputs)
