"""One encoded picture becomes pixels, or a reason why it can't. The only module that opens a picture.

What can be converted is converted: grey, palette, CMYK and transparent pictures become RGB, transparency is left
out, sixteen bits become the upper eight, and of an animation the first frame counts.
"""

import io
import struct
import warnings
import zlib

import numpy as np

from helpers import InputError

CODEC = "webp"


def encode(tile):
    """A tile as lossless WebP.

    Parameters
    ----------
    tile : numpy.ndarray
        Shape (h, w, 3), uint8 RGB.

    Returns
    -------
    bytes

    Notes
    -----
    Of the lossless formats that Pillow 8.4 reads, this is the smallest and the quickest to decode beside its size:
    tiles of real NAIP scenes take 72 kB in place of 91 kB as PNG at level 1, and decoding one takes two thirds of the
    time. ``tests/benchmarks/benchmark.py codecs`` measures them, libraries other than Pillow too; none of those pays
    for being installed on every node.
    """
    from PIL import Image
    buffer = io.BytesIO()
    # The quickest of libwebp's efforts; the others make files a twentieth smaller in twice the time.
    Image.fromarray(tile).save(buffer, CODEC, lossless=True, quality=0, method=0)
    return buffer.getvalue()


def decode_all(tiles, size=None):
    """Pixels of many tiles, all of one size.

    Parameters
    ----------
    tiles : pandas.DataFrame
        Rows of a store: ``tile_id`` and ``image``.
    size : tuple of int, optional
        ``(height, width)`` to resize to; by default that of the first.

    Returns
    -------
    numpy.ndarray
        Shape (N, h, w, 3), uint8 RGB.

    Raises
    ------
    InputError
        If there is no tile, or one can't be read; the message names it.
    """
    pixels = []
    for tile_id, image in zip(tiles["tile_id"], tiles["image"]):
        try:
            pixels.append(decode(image, size))
        except Exception as error:  # Pillow raises errors of many kinds for one cause: bytes it can't read.
            raise InputError("expected pictures that can be read, got {} ({}: {}). Mend it or take it out.".format(
                tile_id, type(error).__name__, str(error).split(" <")[0]))
        size = size or pixels[0].shape[:2]
    if not pixels:
        raise InputError("expected tiles to decode, got none. Choose a county and year that the store has.")
    return np.stack(pixels)


# Only these are tried: Pillow knows formats that start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM")
# 64 MB as RGB in Pillow: some 300 times a tile of 224 px. A picture of a few kilobytes may claim to be any size.
MAX_PX = 4096 * 4096
# Spark's Java holds an encoded picture some ten times on its way to Python.
MAX_BYTES = 16 * 2 ** 20
# A picture that is blown up from less shows nothing.
MIN_SIDE_PX = 8
_PNG = b"\x89PNG\r\n\x1a\n"
_SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class BadPicture(InputError):
    """A picture that can't be used.

    Attributes
    ----------
    kind : str
        ``"unreadable"``, ``"wrong_size"``, ``"too_large"`` or ``"missing"``: the table's ``error_kind``.
    """

    def __init__(self, kind, sentence):
        super().__init__(sentence)
        self.kind = kind


def decode(image, size=None, tile_px=None):
    """Pixels of an encoded picture.

    Parameters
    ----------
    image : bytes
        A picture in one of ``FORMATS``; None where there is none.
    size : tuple of int, optional
        ``(height, width)`` to resize to where the picture has another; None keeps its own.
    tile_px : int, optional
        Height and width that the picture must have, for tiles of a grid; None takes any picture.

    Returns
    -------
    numpy.ndarray
        Shape (h, w, 3), uint8 RGB.

    Raises
    ------
    BadPicture
        If it can't be used; its ``kind`` and sentence say why.
    """
    from PIL import Image
    if image is None:
        raise BadPicture("missing", "expected the bytes of a picture, got none: it was gone when the store was "
                                    "written. Bring it back and write the store again.")
    if len(image) > MAX_BYTES:
        raise BadPicture("too_large", "expected a picture of at most {} MB, got a larger one. Cut it into "
                                      "tiles.".format(MAX_BYTES >> 20))
    if image[:8] == _PNG:
        _check_png(image)
    try:
        with warnings.catch_warnings():
            # Pillow warns of palettes and sizes that are dealt with here.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(image), formats=FORMATS) as picture:
                _check_size(picture.width, picture.height, tile_px)
                picture = _rgb(picture)
                if size is not None and (picture.height, picture.width) != tuple(size):
                    picture = picture.resize((size[1], size[0]), Image.BILINEAR)
                return np.asarray(picture)
    except BadPicture:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise BadPicture("too_large", "expected a picture of at most {} px, got a larger one ({}). Cut it into "
                                      "tiles.".format(MAX_PX, _words(error)))
    except Exception as error:  # Pillow raises errors of many kinds for one cause: bytes that it can't read.
        raise BadPicture("unreadable", "expected a whole picture ({}), got {} bytes that can't be read ({}: {}). "
                                       "Replace it.".format(", ".join(FORMATS), len(image), type(error).__name__,
                                                            _words(error)))


def _words(error):
    """The text of an error on one line, not too long, without the memory addresses that Pillow puts in."""
    text = " ".join(str(error).split())
    return (text.split(" <_io.")[0] if " <_io." in text else text)[:200]


def _check_size(width, height, tile_px):
    if tile_px is not None and (height, width) != (tile_px, tile_px):
        raise BadPicture("wrong_size", "expected a tile of {0} × {0} px, got {1} × {2}. Cut it again on the "
                                       "grid.".format(tile_px, height, width))
    if width * height > MAX_PX:
        raise BadPicture("too_large", "expected a picture of at most {} px, got {} × {}. Cut it into tiles.".format(
            MAX_PX, height, width))
    if min(width, height) < MIN_SIDE_PX:
        raise BadPicture("wrong_size", "expected a picture of at least {0} × {0} px, got {1} × {2}. Leave it "
                                       "out.".format(MIN_SIDE_PX, height, width))


def _check_png(image):
    """Compare every chunk with its checksum: Pillow doesn't for those that hold the pixels."""
    image = memoryview(image)
    position, kind = len(_PNG), None
    while kind != b"IEND":
        if position + 12 > len(image):
            raise BadPicture("unreadable", "expected a whole PNG, got its first {} bytes. Replace it.".format(
                len(image)))
        length, = struct.unpack_from(">I", image, position)
        kind, end = image[position + 4:position + 8], position + 8 + length
        if image[end:end + 4] != struct.pack(">I", zlib.crc32(image[position + 4:end])):
            raise BadPicture("unreadable", "expected a PNG whose chunks have their checksums, got one whose chunk {} "
                                           "has not. Replace it.".format(ascii(kind.tobytes())[2:-1]))
        position = end + 4


def _rgb(picture):
    """The first frame of a picture as RGB."""
    from PIL import Image
    if picture.mode == "RGB":
        picture.load()
        return picture
    if picture.mode in _SIXTEEN_BITS:
        # Pillow would cut off what is above 255, and call nearly everything white.
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("values outside 0 to 65535")
        return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("values with a fraction, whose white is unknown")
    return picture.convert("RGB")
