"""small_networks."""

INPUT_PX = 224
# Blocks in the four stages of ResNet-50 (He et al. 2015, table 1).
BLOCKS = (3, 4, 6, 3)
# Filters, kernel size, stride and padding of AlexNet's convolutions, a quarter as wide.
ALEXNET = ((24, 11, 4, "valid"), (64, 5, 1, "same"), (96, 3, 1, "same"), (96, 3, 1, "same"), (64, 3, 1, "same"))


def resnet_small(input_px=INPUT_PX):
    """ResNet-50's bottleneck design at a quarter of its width.

    Widths 16/64, 32/128, 64/256 and 128/512 in 3, 4, 6 and 3 blocks; 1.5 million weights. Layers are named like
    those of ``keras.applications.ResNet50``.

    Parameters
    ----------
    input_px : int
        Height and width of the pictures; the weights fit any.

    Returns
    -------
    keras.Model
        float32 (N, input_px, input_px, 3) RGB 0 to 255, to maps (N, input_px/32, input_px/32, 512). Untrained.

    References
    ----------
    He et al. 2015, *Deep Residual Learning for Image Recognition*; the stride is in the 3 × 3 convolution, as in
    torchvision's and NVIDIA's ResNet-50 v1.5.
    """
    import keras
    layers = keras.layers

    def convolution(x, filters, size, stride, name, activate=True):
        x = layers.Conv2D(filters, size, stride, "same", use_bias=False, kernel_initializer="he_normal",
                          name=name + "_conv")(x)
        x = layers.BatchNormalization(momentum=0.99, epsilon=1e-5, name=name + "_bn")(x)
        return layers.Activation("relu", name=name + "_relu")(x) if activate else x

    pictures = keras.Input((input_px, input_px, 3), name="pictures")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocess")(pictures)
    x = convolution(x, 16, 7, 2, "conv1")
    x = layers.MaxPooling2D(3, 2, "same", name="pool1_pool")(x)
    for stage, blocks in enumerate(BLOCKS):
        width = 16 * 2 ** stage
        for block in range(blocks):
            name = "conv{}_block{}".format(stage + 2, block + 1)
            stride = 2 if stage and not block else 1
            shortcut = x if block else convolution(x, 4 * width, 1, stride, name + "_0", activate=False)
            x = convolution(x, width, 1, 1, name + "_1")
            x = convolution(x, width, 3, stride, name + "_2")
            x = convolution(x, 4 * width, 1, 1, name + "_3", activate=False)
            x = layers.Add(name=name + "_add")([shortcut, x])
            x = layers.Activation("relu", name=name + "_out")(x)
    return keras.Model(pictures, x, name="resnet_small")


def alexnet_small(input_px=INPUT_PX, dense=True, batch_normalization=False):
    """AlexNet's convolutions at a quarter of their width, and dense layers of 256; 0.7 million weights.

    Parameters
    ----------
    input_px : int
        Height and width of the pictures; the weights of ``fc6`` fit 224 only.
    dense : bool
        With ``fc6`` and ``fc7``; without them the network ends at ``relu5``.
    batch_normalization : bool
        Between each convolution and its activation, for training. ``helpers.pretraining`` folds it into the
        convolutions when it writes the file.

    Returns
    -------
    keras.Model
        float32 (N, h, w, 3) RGB 0 to 255, to features (N, 256) or maps (N, h', w', 64). Untrained.

    References
    ----------
    Krizhevsky et al. 2012, *ImageNet Classification with Deep Convolutional Neural Networks*, without its local
    response normalisation and groups.
    """
    import keras
    layers = keras.layers
    pictures = keras.Input((input_px, input_px, 3), name="pictures")
    x = pictures
    for i, (filters, size, stride, padding) in enumerate(ALEXNET, 1):
        x = layers.Conv2D(filters, size, stride, padding, kernel_initializer="he_normal", name="conv{}".format(i))(x)
        if batch_normalization:
            x = layers.BatchNormalization(epsilon=1e-5, name="bn{}".format(i))(x)
        x = layers.Activation("relu", name="relu{}".format(i))(x)
        if i in (1, 2) or (i == 5 and dense):
            x = layers.MaxPooling2D(3, 2, name="pool{}".format(i))(x)
    if dense:
        # Flattened channel first, as ONNX and CNTK do it, so that the dense weights are the same everywhere.
        x = layers.Flatten(name="flatten")(layers.Permute((3, 1, 2), name="channels_first")(x))
        for i in (6, 7):
            x = layers.Dense(256, "relu", kernel_initializer="he_normal", name="fc{}".format(i))(x)
    return keras.Model(pictures, x, name="alexnet_small")
