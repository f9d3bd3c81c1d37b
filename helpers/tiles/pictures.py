"""Pictures to pixels, and back. Only this module opens an encoded picture.

It converts grey, palette, CMYK and transparent pictures to RGB. Of sixteen bits it keeps the upper eight, and of an
animation the first frame. It refuses every other picture with a reason.
"""

import contextlib
import hashlib
import io
import warnings

import numpy as np

from helpers import InputError

# Of the lossless formats that Pillow 8.4 reads, the smallest and the quickest to decode for its size: tiles of real
# NAIP scenes take 72 kB instead of 91 kB as PNG. ``tests/benchmarks/benchmark.py codecs`` measures them.
CODEC = "webp"
# Pillow tries only these formats: others start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM")
# 64 MB as RGB in Pillow: some 300 times a tile of 224 px. A picture of a few kilobytes may claim to be any size.
MAX_PX = 4096 * 4096
MAX_BYTES = 16 * 2 ** 20
# A picture that is enlarged from fewer pixels shows nothing.
MIN_SIDE_PX = 8
_JPEG, _SCAN = b"\xff\xd8", b"\xff\xda"
_PIXELS_AS_TEXT = b"P1", b"P2", b"P3"
# A progressive JPEG has some ten scans, each of which draws the whole picture again.
MOST_SCANS = 100
_SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class BadPicture(InputError):
    """A picture that can't be used; its kind is ``unreadable``, ``wrong_size``, ``too_large`` or ``missing``."""

    def __init__(self, kind: str, sentence: str):
        super().__init__(sentence)
        self.kind = kind


def encode(tile: np.ndarray) -> bytes:
    """A tile (h, w, 3), uint8 RGB, as lossless WebP."""
    from PIL import Image
    buffer = io.BytesIO()
    # The quickest of libwebp's efforts; the others make files a twentieth smaller in twice the time.
    Image.fromarray(tile).save(buffer, CODEC, lossless=True, quality=0, method=0)
    return buffer.getvalue()


def digest(tile_ids, images) -> str:
    """SHA-256 of names and encoded pictures. Scoring names its units after it."""
    found = hashlib.sha256()
    for tile_id, image in zip(tile_ids, images):
        found.update(f"{tile_id}\n{-1 if image is None else len(image)}\n".encode())
        found.update(image or b"")
    return found.hexdigest()


def decode_all(tiles, size=None) -> np.ndarray:
    """Pixels (N, h, w, 3), uint8 RGB, of a frame's ``tile_id`` and ``image``; by default in the first tile's size."""
    pixels = []
    for tile_id, image in zip(tiles["tile_id"], tiles["image"]):
        try:
            pixels.append(decode(image, size))
        except BadPicture as bad:
            raise InputError(f"expected pictures that can be read, got {tile_id}, which can't: {bad} Or take the tile "
                             "out.")
        size = size or pixels[0].shape[:2]
    if not pixels:
        raise InputError("expected tiles to decode, got none. Choose a county and year that the store has.")
    return np.stack(pixels)


def fault(image: bytes) -> str:
    """The reason why a picture can't be decoded, or None."""
    try:
        decode(image)
    except BadPicture as bad:
        return str(bad).rstrip(".")


def readable(tiles):
    """The rows of a frame with an ``image`` that can be decoded. An InputError says why if there are none."""
    faults = tiles["image"].map(fault)
    if len(tiles) and faults.notna().all():
        raise InputError(f"expected pictures that can be read, got none among {len(tiles)} "
                         f"({tiles['tile_id'].iloc[0]}: {faults.iloc[0]}). Replace them.")
    return tiles[faults.isna()]


def decode(image: bytes, size=None, tile_px: int = None) -> np.ndarray:
    """Pixels (h, w, 3), uint8 RGB, of a picture, resized to ``size`` (height, width); a BadPicture refuses others.

    The picture of a grid's tile must have ``tile_px`` × ``tile_px`` pixels.
    """
    from PIL import Image, ImageOps
    if image is None:
        raise BadPicture("missing", "expected the bytes of a picture, got none: it was gone when the store was "
                                    "written. Bring it back and write the store again.")
    if len(image) > MAX_BYTES:
        raise BadPicture("too_large", f"expected a picture of at most {MAX_BYTES >> 20} MB, got a larger one. Cut it "
                                      "into tiles.")
    if image[:2] in _PIXELS_AS_TEXT:
        raise BadPicture("unreadable", "expected a PPM picture of binary values, got one of text, which takes minutes "
                                       "to read. Save it as PNG.")
    if image[:2] == _JPEG and image.count(_SCAN) > MOST_SCANS:
        raise BadPicture("too_large", f"expected a JPEG of at most {MOST_SCANS} scans, got {image.count(_SCAN)}, which "
                                      "take minutes to read. Save it again.")
    try:
        with warnings.catch_warnings():
            # Pillow warns about palettes and sizes that this module handles.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(image), formats=FORMATS) as picture:
                _check_size(picture.width, picture.height, tile_px)
                if picture.format == "PNG":
                    # Compares all checksums: to decode, Pillow skips those of the chunks that hold the pixels.
                    Image.open(io.BytesIO(image), formats=["PNG"]).verify()
                # If the camera's note on orientation can't be read, the picture stays as it is.
                with contextlib.suppress(Exception):
                    picture = ImageOps.exif_transpose(picture)
                picture = _rgb(picture)
                if size is not None and (picture.height, picture.width) != tuple(size):
                    picture = picture.resize((size[1], size[0]), Image.BILINEAR)
                return np.asarray(picture)
    except BadPicture:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise BadPicture("too_large", f"expected a picture of at most {MAX_PX} px, got a larger one ({_words(error)}). "
                                      "Cut it into tiles.")
    except Exception as error:  # Pillow raises errors of many kinds for one cause: bytes that it can't read.
        raise BadPicture("unreadable", f"expected a whole picture ({', '.join(FORMATS)}), got {len(image)} bytes that "
                                       f"can't be read ({type(error).__name__}: {_words(error)}). Replace it.")


def _words(error):
    """The text of an error on one short line, without Pillow's memory addresses."""
    return " ".join(str(error).split()).split(" <_io.")[0][:200]


def _check_size(width, height, tile_px):
    if tile_px is not None and (height, width) != (tile_px, tile_px):
        raise BadPicture("wrong_size", f"expected a tile of {tile_px} × {tile_px} px, got {height} × {width}. Cut it "
                                       "again on the grid.")
    if width * height > MAX_PX:
        raise BadPicture("too_large", f"expected a picture of at most {MAX_PX} px, got {height} × {width}. Cut it into "
                                      "tiles.")
    if min(width, height) < MIN_SIDE_PX:
        raise BadPicture("wrong_size", f"expected a picture of at least {MIN_SIDE_PX} × {MIN_SIDE_PX} px, got {height} "
                                       f"× {width}. Leave it out.")


def _rgb(picture):
    """The first frame of a picture as RGB."""
    from PIL import Image
    if picture.mode == "RGB":
        picture.load()
        return picture
    if picture.mode in _SIXTEEN_BITS:
        # Pillow would cut values off at 255, so that nearly everything turns white.
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("values outside 0 to 65535")
        return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("values with a fraction, whose white is unknown")
    return picture.convert("RGB")
