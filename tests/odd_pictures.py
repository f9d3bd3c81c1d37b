"""Encoded pictures of every kind: some are converted, some are refused with a reason, some are damaged at random."""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageDraw

import tiny
from helpers.tiles import pictures

PX = tiny.PX


def encoded(picture, suffix, **options):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture.save(buffer, suffix, **options)
    return buffer.getvalue()


def drawn(seed=0, size=(40, 36)):
    """A smooth RGB picture with some edges, so that lossy formats keep it."""
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size, Image.BILINEAR)
    ImageDraw.Draw(picture).ellipse((8, 8, 26, 22), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    return picture


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width, height):
    """A PNG of a few kilobytes that claims to be enormous, and is."""
    pixels = zlib.compressobj(9)
    rows = b"".join(pixels.compress(bytes(1 + 3 * width)) for _ in range(min(height, 50))) + pixels.flush()
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


RGB = drawn()
SIXTEEN = (np.asarray(RGB.convert("L")).astype(np.uint16) << 8) + 77
PNG = encoded(RGB, "PNG")
TRANSPARENT = RGB.copy()
TRANSPARENT.putalpha(100)
PALETTE = RGB.quantize(16)

CONVERTED = {
    "grey": (encoded(RGB.convert("L"), "PNG"), RGB.convert("L")),
    "grey with transparency": (encoded(RGB.convert("LA"), "PNG"), RGB.convert("L")),
    "black and white": (encoded(RGB.convert("1"), "PNG"), RGB.convert("1")),
    "palette": (encoded(PALETTE, "PNG"), PALETTE),
    "palette with transparency": (encoded(PALETTE, "PNG", transparency=bytes(16)), PALETTE),
    "RGBA": (encoded(TRANSPARENT, "PNG"), RGB),
    "CMYK": (encoded(RGB.convert("CMYK"), "TIFF"), RGB),
    "CMYK JPEG": (encoded(RGB.convert("CMYK"), "JPEG", quality=95), RGB),
    "YCbCr": (encoded(RGB, "JPEG", quality=95), RGB),
    "16-bit": (encoded(Image.fromarray(SIXTEEN), "PNG"), RGB.convert("L")),
    "16-bit TIFF": (encoded(Image.fromarray(SIXTEEN), "TIFF"), RGB.convert("L")),
    "animated GIF": (encoded(PALETTE, "GIF", save_all=True, append_images=[drawn(5), drawn(6)]), PALETTE),
    "animated PNG": (encoded(RGB, "PNG", save_all=True, append_images=[drawn(5)]), RGB),
    "animated WebP": (encoded(RGB, "WEBP", lossless=True, save_all=True, append_images=[drawn(5)]), RGB),
    "WebP": (encoded(RGB, "WEBP", lossless=True), RGB),
    "BMP": (encoded(RGB, "BMP"), RGB),
    "PPM": (encoded(RGB, "PPM"), RGB),
}

ERRORS = {
    "zero bytes": (b"", "unreadable"),
    "not an image": (b"<html>404 Not Found</html>", "unreadable"),
    "null bytes": (bytes(5000), "unreadable"),
    "truncated": (PNG[:len(PNG) // 2], "unreadable"),
    "without its end": (PNG[:-12], "unreadable"),
    "truncated JPEG": (encoded(RGB, "JPEG")[:400], "unreadable"),
    "truncated TIFF": (encoded(RGB, "TIFF")[:400], "unreadable"),
    "a corrupt chunk of pixels": (PNG[:80] + bytes([PNG[80] ^ 1]) + PNG[81:], "unreadable"),
    "a corrupt header": (PNG[:18] + b"\xff" + PNG[19:], "unreadable"),
    "a chunk that is longer than the file": (PNG[:33] + b"\x7f" + PNG[34:], "unreadable"),
    "a float TIFF": (encoded(Image.fromarray(np.ones((40, 40), np.float32)), "TIFF"), "unreadable"),
    "a program for a printer": (encoded(RGB, "EPS"), "unreadable"),
    "a format that Pillow knows and we don't try": (encoded(RGB, "PCX"), "unreadable"),
    "a decompression bomb": (bomb(30000, 30000), "too_large"),
    "a small bomb": (bomb(5000, 5000), "too_large"),
    "a large file": (PNG + bytes(pictures.MAX_BYTES), "too_large"),
    "one line": (encoded(drawn(size=(400, 1)), "PNG"), "wrong_size"),
    "gone": (None, "missing"),
}


def mutations(count, seed=0):
    """Valid pictures of every kind, each damaged in one of four ways."""
    rng = np.random.default_rng(seed)
    whole = [image for image, _ in CONVERTED.values()]
    for i in range(count):
        image = bytearray(whole[rng.integers(len(whole))])
        if i % 4 == 0:  # bit flips
            for place in rng.integers(0, len(image), rng.integers(1, 12)):
                image[place] ^= 1 << rng.integers(8)
        elif i % 4 == 1:  # a cut
            start = rng.integers(len(image))
            del image[start:start + rng.integers(1, len(image))]
        elif i % 4 == 2:  # a piece of another
            other = whole[rng.integers(len(whole))]
            start = rng.integers(len(image))
            piece = rng.integers(len(other))
            image[start:start + rng.integers(len(image))] = other[piece:piece + rng.integers(1, len(other))]
        else:  # the header, where sizes and lengths stand; half of the PNGs with the right checksum
            for place in rng.integers(0, min(60, len(image)), rng.integers(1, 6)):
                image[place] = rng.integers(256)
            if image[:8] == PNG[:8] and rng.integers(2):
                image[29:33] = struct.pack(">I", zlib.crc32(image[12:29]))
        yield bytes(image)
