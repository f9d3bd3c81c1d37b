"""Transfer learning in TensorFlow: a frozen backbone, a new head, and fine-tuning of the last stage.

Pictures pass through the frozen layers once; what is trained afterwards is small and quick.
"""

import contextlib
import os

import numpy as np

from helpers.model.cntk_process import silent

# Rows that pass through a network at once: bounds memory at about 1 GB with ResNet-50.
BATCH = 32


def start_tensorflow(threads: int = None) -> list:
    """Import TensorFlow without its start-up messages; the devices it found, ``"CPU"`` and ``"GPU"`` for each.

    It may use all cores, or so many ``threads``; once it has computed something it keeps the number that it has.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent(2):  # TensorFlow's C++ part writes there before it reads its own log level.
        import tensorflow as tf
        devices = [device.device_type for device in tf.config.list_physical_devices()]
    tf.get_logger().setLevel("ERROR")
    if threads is not None:
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
    return devices


def augment(tiles: np.ndarray, seed: int) -> np.ndarray:
    """One changed copy of each square uint8 tile: turned, mirrored, and seen through another sensor.

    Land looks the same from the air whichever way is up, so the eight turns and mirrorings keep the label. Light, haze
    and sensor differ between counties and years far more than inside one, so brightness, contrast and the balance of
    the colours change too.
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


def compute(network, tiles: np.ndarray, dtype: str = "float32") -> np.ndarray:
    """Outputs of a network on uint8 tiles, or on feature maps, in batches; float16 takes half the memory."""
    import tensorflow as tf
    run = tf.function(lambda x: network(tf.cast(x, tf.float32), training=False), reduce_retracing=True)
    return np.concatenate([run(tiles[i:i + BATCH]).numpy().astype(dtype) for i in range(0, len(tiles), BATCH)])


def new_head(features: np.ndarray, n_classes: int, seed: int):
    """A head for features (N, n_features) like these: brought to mean 0 and deviation 1, then one dense layer."""
    import keras
    return keras.Sequential([
        keras.Input((features.shape[1],)),
        keras.layers.Normalization(mean=features.mean(axis=0), variance=features.var(axis=0) + 1e-6),
        keras.layers.Dense(n_classes, activation="softmax", name="probabilities",
                           kernel_initializer=keras.initializers.GlorotUniform(seed),
                           kernel_regularizer=keras.regularizers.L2(1e-3)),
    ], name="head")


def train(network, inputs: np.ndarray, labels: np.ndarray, validation: tuple, seed: int, epochs: int,
          learning_rate: float) -> dict:
    """Train a network by Adam with a learning rate that falls to zero along a cosine.

    Inputs and labels of the validation county are measured after each epoch and choose nothing. The history is
    ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy``, each a list with one value an epoch.
    """
    import keras
    keras.utils.set_random_seed(seed)
    steps = epochs * int(np.ceil(len(labels) / BATCH))
    network.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
                    loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = network.fit(inputs, labels, batch_size=BATCH, epochs=epochs, validation_data=validation, verbose=0)
    return {key: [float(v) for v in values] for key, values in history.history.items()}


def with_head(last_stage, head):
    """The last stage of ``Backbone.build_stages`` and a copy of a trained head, to fine-tune together.

    Batch normalisation keeps the statistics it was pretrained with: those of a few hundred tiles would be worse.
    """
    import keras
    copy = keras.models.clone_model(head)
    copy.set_weights(head.get_weights())
    for layer in last_stage.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return keras.Sequential([last_stage, copy])


def assemble(parts: list, input_px: int):
    """The network to save, from uint8 tiles to probabilities: models that are applied one after the other."""
    import keras
    tiles = keras.Input((input_px, input_px, 3), dtype="uint8", name="tiles")
    # Rescaling by 1 is Keras's plain way to turn uint8 into float32 inside the saved network.
    outputs = keras.layers.Rescaling(1.0, dtype="float32", name="to_float")(tiles)
    for part in parts:
        outputs = part(outputs)
    return keras.Model(tiles, outputs)
