"""Bad pictures: which are converted, which become rows with a reason, and what thousands of damaged ones do."""

import io
import os
import signal
import struct
import subprocess
import sys
import time
import warnings
import zlib

import numpy as np
import psutil
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

import tiny
from helpers import InputError
from helpers.scoring import guard as scoring_process, score as scoring
from helpers.tiles import pictures
from helpers.tiles.pictures import encode

PX = tiny.PX
MUTATED = 2400


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


@pytest.mark.parametrize("name", CONVERTED)
def test_pictures_that_are_converted(name):
    image, expected = CONVERTED[name]
    pixels = pictures.decode(image)
    assert pixels.shape == (36, 40, 3) and pixels.dtype == np.uint8
    # JPEG loses a little.
    assert np.abs(pixels.astype(int) - np.asarray(expected.convert("RGB"))).mean() < (8 if "JPEG" in name else 4
                                                                                      if name == "YCbCr" else 0.51)


@pytest.mark.parametrize("name", ERRORS)
def test_pictures_that_become_rows_with_a_reason(name):
    image, kind = ERRORS[name]
    with pytest.raises(pictures.BadPicture) as error:
        pictures.decode(image, (PX, PX))
    sentence = str(error.value)
    assert error.value.kind == kind
    assert sentence.startswith("expected ") and ", got " in sentence and sentence.endswith(".") and "\n" not in sentence
    assert "0x" not in sentence, "an address differs from run to run"


def test_a_tile_of_a_grid_has_the_grids_size():
    with pytest.raises(pictures.BadPicture) as error:
        pictures.decode(PNG, (PX, PX), tile_px=224)
    assert error.value.kind == "wrong_size"
    assert str(error.value) == "expected a tile of 224 × 224 px, got 36 × 40. Cut it again on the grid."


def test_a_bomb_is_told_by_its_header():
    """What it would have taken: 2.7 GB."""
    image = bomb(30000, 30000)
    before = psutil.Process().memory_info().rss
    with pytest.raises(pictures.BadPicture):
        pictures.decode(image)
    assert psutil.Process().memory_info().rss - before < 50e6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model(tmp_path_factory.mktemp("model") / "bundle")


def batch_of(images, year=0):
    return pa.RecordBatch.from_pylist([
        {"tile_id": f"{i:05d}", "image": image, "county": "place", "year": year, "image_crc": i}
        for i, image in enumerate(images)], scoring_process.TILES)


def process(model, **options):
    return scoring_process.Process(model.folder, **options)


def test_a_row_for_each_of_them_through_a_process(model):
    scorer = process(model)
    everything = dict(CONVERTED, **ERRORS)
    rows = scorer.score(batch_of([image for image, _ in everything.values()])).to_pandas()
    scorer.close()
    assert rows["tile_id"].tolist() == [f"{i:05d}" for i in range(len(everything))]
    kinds = dict(zip(everything, rows["error_kind"]))
    assert {name: kinds[name] for name in ERRORS} == {name: kind for name, (_, kind) in ERRORS.items()}
    assert all(kinds[name] is None for name in CONVERTED)
    bad = rows["error_kind"].notna()
    assert rows["class_id"].isna().equals(bad) and rows["probabilities"].isna().equals(bad)
    assert set(rows["model"]) == {model.checksum} and set(rows["engine"]) == {"onnxruntime"}


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


def test_thousands_of_damaged_pictures(model):
    """No crash, no hang, no row missing, and the memory of the process bounded."""
    scorer = process(model)
    scorer.score(batch_of([PNG] * 64))
    first, before = scorer.pid, psutil.Process(scorer.pid).memory_info().rss
    damaged, kinds, highest = list(mutations(MUTATED)), [], 0
    started = time.monotonic()
    for start in range(0, MUTATED, 64):
        batch = batch_of(damaged[start:start + 64])
        rows = scorer.score(batch)
        assert rows.column("tile_id").equals(batch.column("tile_id"))
        rows = rows.to_pandas()
        assert (rows["class_id"].isna() == rows["error_kind"].notna()).all()
        assert rows["error"].dropna().str.match(r"expected .*, got .*\.$").all()
        kinds += rows["error_kind"].tolist()
        highest = max(highest, psutil.Process(scorer.pid).memory_info().rss)
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    print(f"{MUTATED} in {time.monotonic() - started:.1f} s, {(highest - before) / 2 ** 20:.0f} MB more, {counts}")
    assert set(kinds) <= {None, "unreadable", "too_large", "wrong_size"} and counts["unreadable"] > MUTATED / 3
    # 64 MB is the largest picture that is opened; as much again for its conversion.
    assert scorer.pid == first and highest - before < 200 * 2 ** 20
    scorer.close()


# A process whose decoder hangs, or crashes, with some pictures.
FAULTY = """
import os, signal, time
from helpers import pictures, scoring, scoring_process
decode = pictures.decode
def faulty(image, *args):
    if image == b"hang":
        time.sleep(3600)
    if image == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return decode(image, *args)
pictures.decode = faulty
{}
scoring_process.serve(scoring.score_batch)
"""
# Networks told apart by the colour of the tile.
FAULTY_NETWORK = """
from helpers import engines
class Faulty(engines.OnnxRuntime):
    def score(self, tiles):
        if (tiles == 66).all(axis=(1, 2, 3)).any():
            time.sleep(3600)
        if (tiles == 99).all(axis=(1, 2, 3)).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        if (tiles == 33).all(axis=(1, 2, 3)).any():
            raise ValueError("a shape that it does not like")
        return super().score(tiles)
engines._FILES["onnxruntime"] = ("model.onnx", Faulty)
"""


def test_a_picture_that_hangs_or_crashes_is_given_up_alone(model):
    scorer = process(model, picture_s=1, program=FAULTY.format(""))
    rows = scorer.score(batch_of([PNG, b"hang", PNG, b"crash", b"", PNG])).to_pandas()
    assert rows["tile_id"].tolist() == [f"{i:05d}" for i in range(6)]
    assert rows["error_kind"].tolist() == [None, "timeout", None, "unreadable", "unreadable", None]
    assert rows["error"][1].startswith("expected the picture to be read within 1 s, got no answer.")
    assert rows["error"][3].startswith("expected a picture that can be read, got a process that ended with status -11")
    assert set(rows["model"]) == {model.checksum} and rows["image_crc"].tolist() == list(range(6))
    assert set(rows["engine"]) == {"onnxruntime"}
    last = scorer.pid
    assert scorer.score(batch_of([PNG])).num_rows == 1 and scorer.pid == last
    scorer.close()
    assert not psutil.pid_exists(last)


def test_a_network_that_hangs_or_crashes_costs_one_tile(model):
    colours = [encode(np.full((PX, PX, 3), colour, np.uint8)) for colour in (10, 66, 20, 99, 30, 33)]
    scorer = process(model, network_s=1, program=FAULTY.format(FAULTY_NETWORK))
    rows = scorer.score(batch_of(colours)).to_pandas()
    scorer.close()
    assert rows["error_kind"].tolist() == [None, "timeout", None, "engine", None, "engine"]
    assert set(rows["engine"]) == {"onnxruntime"}
    assert rows["error"][1].startswith("expected the network to score the tile within 1 s, got no answer.")
    assert rows["error"][5] == "expected a score, got ValueError: a shape that it does not like. Try another engine."


NAMED = """
from helpers import engines
class Named(engines.OnnxRuntime):
    name = "onnxruntime-cuda"
engines._FILES["onnxruntime"] = ("model.onnx", Named)
"""


def test_a_tile_that_is_given_up_names_the_engine_as_the_others_do(model):
    scorer = process(model, picture_s=1, program=FAULTY.format(NAMED))
    rows = scorer.score(batch_of([PNG, b"hang"])).to_pandas()
    scorer.close()
    assert rows["error_kind"].tolist() == [None, "timeout"] and set(rows["engine"]) == {"onnxruntime-cuda"}


def test_a_network_that_only_hangs_is_given_up_soon(model):
    """After that no tile is tried, and none gets a row; until another job begins."""
    hangs = encode(np.full((PX, PX, 3), 66, np.uint8))
    scorer = process(model, network_s=0.5, program=FAULTY.format(FAULTY_NETWORK))
    started = time.monotonic()
    rows = scorer.score(batch_of([hangs] * 50)).to_pandas()
    assert scorer.gave_up.startswith("expected the network to score the tile within 0.5 s, got no answer.")
    assert rows["error_kind"].tolist() == ["timeout"] * (scoring_process.IN_VAIN - 1)
    assert len(scorer.score(batch_of([PNG] * 10))) == 0 and time.monotonic() - started < 60
    scorer.begin()
    assert scorer.score(batch_of([PNG] * 10)).column("error_kind").null_count == 10
    # A score in between, and it is trusted on.
    for _ in range(3):
        kinds = scorer.score(batch_of([hangs, PNG])).column("error_kind").to_pylist()
        assert kinds == ["timeout", None]
    scorer.close()


def test_a_scorer_that_hangs_goes_with_its_worker(model, tmp_path):
    """Which the kernel sees to: it would never read its pipe again."""
    program = tmp_path / "program.py"
    program.write_text(FAULTY.format(""))
    parent = subprocess.Popen(
        [sys.executable, "-c",
         "import sys, threading, time; import pyarrow as pa; from helpers import scoring_process as s\n"
         "scorer = s.Process(sys.argv[1], program=open(sys.argv[2]).read())\n"
         "row = {'tile_id': 'a', 'image': b'hang', 'county': 'x', 'year': 0, 'image_crc': 1}\n"
         "batch = pa.RecordBatch.from_pylist([row], s.TILES)\n"
         "threading.Thread(target=scorer.score, args=[batch], daemon=True).start()\n"
         "while scorer.pid is None or s.struct.unpack('<q', scorer._position)[0] != 0: time.sleep(0.1)\n"
         "print(scorer.pid, flush=True); time.sleep(60)", str(model.folder), str(program)],
        stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = alive(pid)
    if left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_process_that_is_killed_from_outside_changes_nothing(model):
    expected = process(model).score(batch_of([PNG] * 8)).to_pandas()
    scorer = process(model)
    for _ in range(3):
        came = scorer.score(batch_of([PNG] * 8)).to_pandas()
        assert came["class_id"].tolist() == expected["class_id"].tolist() and came["error"].isna().all()
        psutil.Process(scorer.pid).kill()
        # The only tile of a batch is not to blame either.
        assert scorer.score(batch_of([PNG])).column("error_kind").null_count == 1
        psutil.Process(scorer.pid).kill()
    scorer.close()


def test_a_process_that_cannot_start_says_why(model, tmp_path):
    with pytest.raises(InputError, match="expected an engine of"):
        process(model, engine="caffe").score(batch_of([PNG]))
    with pytest.raises(InputError, match="no model.json there"):
        scoring_process.Process(tmp_path).score(batch_of([PNG]))
    with pytest.raises(RuntimeError, match="(?s)ended with status 1.*ZeroDivisionError"):
        process(model, program="1 / 0").score(batch_of([PNG]))


def test_the_plain_function_and_the_process_agree(model):
    everything = [image for image, _ in dict(CONVERTED, **ERRORS).values()]
    batch = batch_of(everything)
    scorer = process(model)
    there = scorer.score(batch).to_pandas()
    scorer.close()
    here = next(scoring.score_batches([batch.to_pandas()], model.folder))
    for column in ("tile_id", "class_id", "error_kind", "error"):
        assert there[column].astype(object).where(there[column].notna(), None).tolist() == \
            here[column].astype(object).where(here[column].notna(), None).tolist()
