"""How land looks from the air: swatches of texture, and palettes that colour them.

A swatch is a seamless square of 1024 × 1024 m at 1 m. Each of its values holds a shade (how light, 0 to 127) and a
tint (which of 8 neighbours it looks like). A palette turns both into red, green, blue and near infrared, packed in
one 32-bit number; each field, stand and block has a palette of its own. So one look-up draws a pixel in four bands.
"""

import numpy as np

SIZE = 1024
SHADES, TINTS = 128, 8
# Relative red, green, blue and near infrared of dry soils, and how light they may be (grey level).
SOILS = {
    "brown": ((1.17, 0.98, 0.80, 1.25), (58, 135)),
    "tan": ((1.13, 1.00, 0.80, 1.20), (95, 190)),
    "red": ((1.28, 0.92, 0.74, 1.30), (75, 165)),
    "grey": ((1.03, 1.00, 0.95, 1.08), (70, 175)),
    "pale": ((1.06, 1.00, 0.88, 1.10), (125, 205)),
}


# ---- noise

def noise(rng, shape, wavelength, slope=2.0, shortest=2.0) -> np.ndarray:
    """Seamless Gaussian noise with mean 0 and deviation 1, float32.

    ``wavelength`` is the longest with full power, in pixels; waves under ``shortest`` are left out. The higher the
    ``slope`` at which amplitude falls towards shorter waves, the smoother.
    """
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    amplitude = 1 / np.maximum(frequency, 1 / wavelength) ** slope
    amplitude[(frequency > 1 / shortest) | (frequency == 0)] = 0
    amplitude *= np.minimum(1, frequency * wavelength * 1.5)
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * amplitude
    field = np.fft.irfft2(spectrum, shape)
    return (field / field.std()).astype(np.float32)


# ---- heights and light

def _domes(rng, spacing, radii, power=2.0, cover=None, jitter=0.5, rows=False):
    """Heights (m) and tints of crowns on a torus of half the swatch's side; they stand where ``cover`` is above 0."""
    size = SIZE // 2
    steps = 2 * round(size / spacing / 2)
    grid = (np.indices((steps, steps)) + 0.5) * size / steps
    if not rows:
        grid[1] += (np.arange(steps) % 2 * size / steps / 2)[:, None]
    y, x = (grid + rng.uniform(-jitter, jitter, grid.shape) * size / steps).reshape(2, -1) % size
    radius = rng.uniform(*radii, x.size)
    if cover is not None:
        keep = cover[y.astype(int), x.astype(int)] > rng.normal(0, 0.25, x.size)
        y, x, radius = y[keep], x[keep], radius[keep]
    reach = int(np.ceil(radii[1])) + 1
    pad = reach + 1
    height = np.zeros((size + 2 * pad, size + 2 * pad), np.float32)
    owner = np.zeros(height.shape, np.uint8)
    ring = np.arange(-reach, reach + 1, dtype=np.float32)
    tint = rng.integers(0, TINTS, x.size)
    tall = rng.uniform(1.3, 2.3, x.size)
    squeeze = rng.uniform(0.85, 1.18, x.size)
    for i in range(x.size):
        cy, cx = int(y[i]), int(x[i])
        dy, dx = (ring + cy - y[i]) * squeeze[i], (ring + cx - x[i]) / squeeze[i]
        d = (dy * dy)[:, None] + (dx * dx)[None]
        dome = radius[i] * tall[i] * (1 - (d / radius[i] ** 2) ** (power / 2))
        view = slice(cy + pad - reach, cy + pad + reach + 1), slice(cx + pad - reach, cx + pad + reach + 1)
        above = dome > height[view]
        height[view][above] = dome[above]
        owner[view][above] = tint[i]
    # Fold what stands over the edges back to the other side.
    for axis in (0, 1):
        height, owner = np.moveaxis(height, axis, 0), np.moveaxis(owner, axis, 0)
        for inner, outer in ((slice(size, size + pad), slice(0, pad)), (slice(pad, 2 * pad), slice(-pad, None))):
            above = height[outer] > height[inner]
            height[inner][above], owner[inner][above] = height[outer][above], owner[outer][above]
        height = np.moveaxis(height[pad:-pad], 0, axis)
        owner = np.moveaxis(owner[pad:-pad], 0, axis)
    return np.ascontiguousarray(height), np.tile(owner, (2, 2))


def _light(height, sun, reach=12):
    """Lambertian light (0 to 1) on a surface of heights (m), and a mask of shadows up to ``reach`` m long."""
    azimuth, elevation = sun
    east, north = np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation)
    gy, gx = ((np.roll(height, -1, axis) - np.roll(height, 1, axis)) / 2 for axis in (0, 1))
    light = (-gx * east + gy * north + np.sin(elevation)) / np.sqrt(1 + gx ** 2 + gy ** 2)
    shadow = np.zeros(height.shape, bool)
    for step in range(1, reach + 1):
        dx, dy = step * np.sin(azimuth), -step * np.cos(azimuth)
        blocker = np.roll(height, (-round(dy), -round(dx)), (0, 1))
        shadow |= blocker > height + step * np.tan(elevation)
    return np.clip(light, 0, 1), shadow


def _stretch(values, low, high):
    """Values brought so that their 2nd and 98th percentiles are ``low`` and ``high``."""
    a, b = np.percentile(values[::7, ::7], (2, 98))
    return low + (values - a) * ((high - low) / max(b - a, 1e-6))


def _canopy(crowns, sun, grain, floor):
    """Shade and tint of crowns over a floor."""
    height, owner = crowns
    (light, shadow), height = _light(height, sun), np.tile(height, (2, 2))
    light, shadow = np.tile(light, (2, 2)), np.tile(shadow, (2, 2))
    shade = np.where(height > 0.05, _stretch(light, 0.3, 0.95), floor)
    shade = np.where(shadow, shade * 0.35, shade) + 0.05 * grain
    return shade, owner


def _scrub(crowns, sun, grain, soil):
    """Shade and tint of bushes, dark, over a light soil with a texture of its own (-1 to 1)."""
    height, owner = crowns
    light, shadow = (np.tile(a, (2, 2)) for a in _light(height, sun))
    bush = np.tile(height, (2, 2)) > 0.05
    shade = np.where(bush, _stretch(light, 0.05, 0.42), 0.78 + 0.11 * soil)
    shade = np.where(shadow & ~bush, shade * 0.45, shade) + 0.03 * grain
    return shade, owner


def _rows(rng, period, width, wobble, noise_amount, gaps=0.0):
    """Shade of crop rows along the first axis: lines with a period in metres, brought to fit the swatch."""
    period = SIZE / round(SIZE / period)
    bend = wobble * noise(rng, (SIZE, SIZE), 220, 2.5, 20)
    x = np.arange(SIZE, dtype=np.float32)[None] + bend
    phase = x / period % 1
    line = np.clip((np.abs(phase - 0.5) * 2 - 1 + 2 * width) / 0.5, 0, 1)
    plants = 1 + gaps * noise(rng, (SIZE, SIZE), 12, 1.0)
    shade = 0.5 + 0.32 * (line - 0.5) * 2 * plants
    # Each pass of the machine leaves a strip that is a little lighter or darker.
    passes = rng.normal(0, 1, 128)[(x / SIZE * 128).astype(int) % 128]
    return shade + noise_amount * noise(rng, (SIZE, SIZE), 40, 1.1) + 0.05 * passes


def _stripes(rng, widths, soft=0.1):
    """Random stripes along the first axis: values -1 to 1 for each column of the swatch."""
    edges, values = [0], []
    while edges[-1] < SIZE:
        edges.append(edges[-1] + int(rng.integers(*widths)))
        values.append(rng.uniform(-1, 1))
    return np.repeat(values, np.diff(edges))[:SIZE][None] * np.ones((SIZE, 1)) * (1 - soft)


class Swatches:
    """All textures of one world: crowns and bushes are placed once, and ``lit`` shades them for a sun."""

    NAMES = ("broadleaf", "conifer", "mixed", "swamp", "young", "scrub_sparse", "scrub_dense", "scrub_large",
             "rows_fine", "rows_broad", "tilled", "hay", "orchard", "strips",
             "meadow", "tussock", "marsh", "dunes", "rock", "badland", "gravel", "lawn", "paved", "water", "cleared")
    INDEX = {name: i for i, name in enumerate(NAMES)}

    def __init__(self, seed):
        self.seed = seed
        rng = np.random.default_rng([seed, 11])
        n = (SIZE // 2, SIZE // 2)
        clump = noise(rng, n, 160, 1.6)
        self._crowns = {
            "broadleaf": _domes(rng, 6.6, (3.2, 6.2)),
            "conifer": _domes(rng, 4.2, (1.9, 3.4), power=1.2),
            "mixed": _domes(rng, 5.4, (1.9, 5.6), power=1.7),
            "swamp": _domes(rng, 6.4, (2.0, 4.8), cover=clump + 0.9),
            "young": _domes(rng, 4.4, (1.4, 2.4), cover=clump + 1.1, jitter=0.42),
            "scrub_sparse": _domes(rng, 9.5, (1.2, 3.0), cover=noise(rng, n, 90, 1.4) + 0.9),
            "scrub_dense": _domes(rng, 5.6, (1.1, 2.6), cover=noise(rng, n, 120, 1.5) + 0.6),
            "scrub_large": _domes(rng, 12.5, (1.4, 4.8), cover=noise(rng, n, 110, 1.5) + 0.9),
            "orchard": _domes(rng, SIZE / 146, (2.2, 2.9), jitter=0.05, rows=True),
        }
        self._lay_surfaces()

    def _lay_surfaces(self):
        """What doesn't depend on the sun: fields, grass, water, and the heights of bare ground."""
        rng = np.random.default_rng([self.seed, 12])
        n = (SIZE, SIZE)
        # A little grain, soft as through a lens: it makes ground look like ground, and files large.
        self._grain = grain = 0.6 * noise(rng, n, 6, 0.3)
        self._soft, self._rough, broad = noise(rng, n, 120, 1.7), noise(rng, n, 24, 1.1), noise(rng, n, 300, 2.0)
        soft, rough = self._soft, self._rough
        self._flat = out = {}
        out["rows_fine"] = _rows(rng, 3.4, 0.5, 1.2, 0.07, 0.35)
        out["rows_broad"] = _rows(rng, 7.0, 0.42, 1.8, 0.08, 0.35)
        out["hay"] = _rows(rng, 12.0, 0.22, 4.0, 0.08, 0.5)
        tramline = (np.arange(SIZE) % 22 < 2) | ((np.arange(SIZE) + 5) % 22 < 2)
        out["tilled"] = (0.5 + 0.13 * soft + 0.09 * _stripes(rng, (4, 16)) + 0.03 * grain
                         + 0.14 * _stripes(rng, (2, 4)) - 0.16 * tramline[None])
        out["strips"] = (_rows(rng, 4.0, 0.5, 1.5, 0.05) * 0.35 + 0.33 + 0.36 * _stripes(rng, (14, 40))
                         + 0.03 * grain)
        # Grass: mottles without direction, no lines.
        out["meadow"] = 0.5 + 0.15 * soft + 0.08 * rough + 0.05 * grain + 0.06 * broad
        out["tussock"] = 0.5 + 0.10 * noise(rng, n, 9, 0.6) + 0.12 * soft + 0.06 * grain
        pools = np.clip((noise(rng, n, 60, 1.5) - 0.8) * 3, 0, 1)
        out["marsh"] = 0.55 + 0.14 * noise(rng, n, 70, 1.3) - 0.42 * pools + 0.05 * grain
        out["lawn"] = 0.5 + 0.12 * rough + 0.1 * soft + 0.05 * grain
        out["paved"] = 0.5 + 0.06 * soft + 0.04 * grain + 0.06 * rough
        out["water"] = 0.45 + 0.1 * broad + 0.03 * grain
        # Bare ground: dunes, gullies, cracked rock, the terraces of a pit.
        terraces = np.floor(noise(rng, n, 420, 2.6, 30) * 3.2 + 0.15 * soft)
        self._heights = {
            "dunes": self._dunes(rng),
            "badland": -np.abs(noise(rng, n, 170, 2.3, 5)) * 14 - 2.0 * np.abs(noise(rng, n, 60, 2.2, 6)),
            "rock": (noise(rng, n, 90, 1.6, 3) * 5 + 2.5 * np.floor(1.5 * noise(rng, n, 70, 2.0, 5))
                     - 3.0 * np.exp(-(noise(rng, n, 80, 1.9, 4) / 0.05) ** 2)),
            "gravel": terraces.astype(np.float32) * 2.5}
        out["gravel"] = 0.55 + 0.07 * ((terraces * 37) % 5 - 2) + 0.05 * rough + 0.04 * grain
        out["cleared"] = 0.12 * _stripes(rng, (3, 9)) + 0.1 * rough + 0.1
        self._tint = {name: np.clip((field + 2) * TINTS / 4, 0, TINTS - 1).astype(np.uint16) * SHADES
                      for name, field in (("soft", soft), ("rough", rough))}

    def lit(self, sun) -> np.ndarray:
        """All swatches (len(NAMES), 1024, 1024), uint16, ``tint * 128 + shade``.

        ``sun``: azimuth, clockwise from north, and elevation, in radians.
        """
        soft, rough, grain = self._soft, self._rough, self._grain
        out = dict(self._flat)
        for name in ("broadleaf", "conifer", "mixed", "swamp", "young"):
            out[name] = _canopy(self._crowns[name], sun, grain, floor=0.42 if name == "young" else 0.25)
        for name, bare in (("scrub_sparse", 0.6 * soft + 0.5 * rough), ("scrub_dense", soft),
                           ("scrub_large", rough)):
            out[name] = _scrub(self._crowns[name], sun, grain, 0.6 * bare)
        out["orchard"] = _scrub(self._crowns["orchard"], sun, grain, 0.3 * soft)
        for name, low, high in (("dunes", 0.2, 0.85), ("badland", 0.1, 0.9), ("rock", 0.12, 0.88)):
            out[name] = _stretch(_light(self._heights[name], sun, 0)[0], low, high) + 0.04 * grain
        step = _light(self._heights["gravel"], sun, 6)
        out["gravel"] = out["gravel"] + 0.5 * (step[0] - np.sin(sun[1])) - 0.25 * step[1]
        out["cleared"] = out["cleared"] + 0.62 * _scrub(self._crowns["scrub_sparse"], sun, grain, soft)[0]
        packed = np.empty((len(self.NAMES), SIZE, SIZE), np.uint16)
        for i, name in enumerate(self.NAMES):
            shade, owner = out[name] if isinstance(out[name], tuple) else (out[name], None)
            tint = self._tint["rough" if name in ("tussock", "cleared") else "soft"] if owner is None \
                else owner.astype(np.uint16) * SHADES
            packed[i] = np.clip(shade * SHADES, 0, SHADES - 1).astype(np.uint16) + tint
        return packed

    @staticmethod
    def _dunes(rng):
        """Heights of wind-blown sand: long crests, steep on one side."""
        n = (SIZE, SIZE)
        warp = noise(rng, n, 200, 2.0, 12)
        y, x = np.indices(n, dtype=np.float32)
        height = np.zeros(n, np.float32)
        for kx, ky, size in ((23, 6, 3.0), (61, 14, 0.8), (128, 33, 0.25)):
            phase = (kx * x + ky * y) / SIZE + warp * (0.9 if size > 1 else 1.6)
            saw = phase % 1
            height += size * np.where(saw < 0.7, saw / 0.7, (1 - saw) / 0.3) * (1 + 0.4 * noise(rng, n, 120, 1.8))
        return height


# ---- palettes

def soil(rng, names, light):
    """The colour of bare soil: four bands, float, in grey levels."""
    colour, (low, high) = SOILS[names[rng.integers(len(names))]]
    return np.array(colour) * (low + light * (high - low)) * rng.uniform(0.95, 1.05, 4)


def plants(grey, green):
    """The colour of plants: four bands, float; ``green`` from 0 (straw) to 1 (lush)."""
    dry, lush = np.array([1.14, 1.0, 0.72, 1.35]), np.array([0.77, 1.04, 0.66, 2.1])
    return grey * (dry + (lush - dry) * np.clip(green, 0, 1.05))


def palette(dark, middle, light, tint=0.0, shift=(1.0, 0.0, -0.6, 0.5)) -> np.ndarray:
    """Packed colours (TINTS * SHADES,) from those of the shades 0, 64 and 127.

    The eight tints lie apart by ``tint``, a share of the colour, in the direction ``shift`` (four bands).
    """
    at = np.linspace(0, 2, SHADES)[None, :, None]
    dark, middle, light = (np.asarray(c, float)[None, None] for c in (dark, middle, light))
    ramp = np.where(at < 1, dark + (middle - dark) * at, middle + (light - middle) * (at - 1))
    tints = np.linspace(-1, 1, TINTS)[:, None, None] * tint * np.asarray(shift)[None, None]
    return pack(ramp * (1 + tints)).ravel()


def pack(colours):
    """Four-band colours (..., 4) as packed uint32 (...); never 0, which is nodata."""
    return np.ascontiguousarray(np.clip(np.round(colours), 2, 250).astype(np.uint8)).view("<u4")[..., 0]


def contrast(colour, amount, dark=1.0, light=1.0):
    """Dark, middle and light of a colour whose shades differ by ``amount`` (share of the colour)."""
    colour = np.asarray(colour, float)
    return colour * (1 - amount * dark), colour, colour * (1 + amount * light)
