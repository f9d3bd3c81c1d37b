"""How land looks from the air: swatches of texture, and palettes that colour them.

A swatch is a seamless square of 1024 × 1024 m at 1 m. Each of its values holds a shade (lightness, 0 to 127) and a
tint (one of 8). A palette turns both into red, green, blue and near infrared, packed in one 32-bit number. Each field,
stand and block has its own palette, so one look-up draws a pixel in four bands.
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

    Waves up to ``wavelength`` pixels have full power, and waves shorter than ``shortest`` have none. The higher the
    ``slope`` at which amplitude falls towards shorter waves, the smoother the noise.
    """
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    amplitude = 1 / np.maximum(frequency, 1 / wavelength) ** slope
    amplitude[(frequency > 1 / shortest) | (frequency == 0)] = 0
    amplitude *= np.minimum(1, frequency * wavelength * 1.5)
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * amplitude
    field = np.fft.irfft2(spectrum, shape)
    return (field / field.std()).astype(np.float32)


# ---- heights and light

def _domes(rng, spacing, radii, power=2.0, jitter=0.5, rows=False):
    """Crowns on a torus of half the swatch's side: heights (m), tints, and ranks from 0 to 254.

    The ground shows a crown where the cover of trees or bushes is above its rank. Higher crowns have lower ranks.
    """
    size = SIZE // 2
    steps = 2 * round(size / spacing / 2)
    grid = (np.indices((steps, steps)) + 0.5) * size / steps
    if not rows:
        grid[1] += (np.arange(steps) % 2 * size / steps / 2)[:, None]
    y, x = (grid + rng.uniform(-jitter, jitter, grid.shape) * size / steps).reshape(2, -1) % size
    radius = rng.uniform(*radii, x.size)
    # Crowns stand in clumps: neighbours have ranks that are alike.
    clump = noise(rng, (size, size), 90, 1.4)[y.astype(int), x.astype(int)] + rng.normal(0, 0.9, x.size)
    rank = np.zeros(x.size) if rows else clump.argsort().argsort() * (254 / x.size)
    reach = int(np.ceil(radii[1])) + 1
    height, owner = np.zeros((size, size), np.float32), np.zeros((size, size), np.int32)
    ring = np.arange(-reach, reach + 1)
    tall = 2.3 - rank / 254
    squeeze = rng.uniform(0.85, 1.18, x.size)
    for i in range(x.size):
        cy, cx = int(y[i]), int(x[i])
        dy, dx = (ring + cy - y[i]) * squeeze[i], (ring + cx - x[i]) / squeeze[i]
        d = (dy * dy)[:, None] + (dx * dx)[None]
        dome = radius[i] * tall[i] * (1 - (d / radius[i] ** 2) ** (power / 2))
        view = np.ix_((ring + cy) % size, (ring + cx) % size)
        above = dome > height[view]
        height[view], owner[view] = np.where(above, dome, height[view]), np.where(above, i, owner[view])
    ranks = np.where(height > 0.05, rank[owner], 255).astype(np.uint8)
    return height, rng.integers(0, TINTS, x.size)[owner].astype(np.uint16), ranks


def _light(height, sun):
    """Lambertian light (0 to 1) on a surface of heights (m)."""
    azimuth, elevation = sun
    east, north = np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation)
    gy, gx = ((np.roll(height, -1, axis) - np.roll(height, 1, axis)) / 2 for axis in (0, 1))
    light = (-gx * east + gy * north + np.sin(elevation)) / np.sqrt(1 + gx ** 2 + gy ** 2)
    return np.clip(light, 0, 1)


def _shadows(height, ranks, sun):
    """The lowest rank of the crowns that throw a shadow, up to 12 m long, on each pixel; 255 where none does."""
    azimuth, elevation = sun
    found = np.full(height.shape, 255, np.uint8)
    for step in range(1, 13):
        shift = -round(-step * np.cos(azimuth)), -round(step * np.sin(azimuth))
        blocked = np.roll(height, shift, (0, 1)) > height + step * np.tan(elevation)
        found = np.where(blocked, np.minimum(found, np.roll(ranks, shift, (0, 1))), found)
    return found


def _stretch(values, low, high):
    """Values, scaled so that their 2nd and 98th percentiles are ``low`` and ``high``."""
    a, b = np.percentile(values[::7, ::7], (2, 98))
    return low + (values - a) * ((high - low) / max(b - a, 1e-6))


def _rows(rng, period, width, wobble, noise_amount, gaps=0.0):
    """Shade of crop rows along the first axis. The period, in metres, is adjusted so that rows fit the swatch."""
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


class Swatches:
    """All textures of one world. It places crowns and bushes once, and ``lit`` shades them for a sun."""

    CROWNS = {"bushes": (4.2, (0.8, 1.7)), "scrub": (6.4, (1.4, 3.2)), "young": (4.6, (1.5, 2.6)),
              "conifer": (4.4, (1.9, 3.4), 1.2), "broadleaf": (6.6, (3.0, 6.2)),
              "orchard": (SIZE / 146, (2.2, 2.9), 2.0, 0.05, True)}
    NAMES = (*CROWNS, "rows", "broad_rows", "tilled", "hay", "meadow", "tussock", "sand", "rock", "paved", "water")
    INDEX = {name: i for i, name in enumerate(NAMES)}

    def __init__(self, seed):
        rng = np.random.default_rng([seed, 11])
        self._crowns = {name: _domes(rng, *how) for name, how in self.CROWNS.items()}
        self._lay_surfaces(np.random.default_rng([seed, 12]))

    def _lay_surfaces(self, rng):
        """Surfaces that don't depend on the sun (fields, grass, water), and the heights of bare ground."""
        n = (SIZE, SIZE)
        # A little grain, soft as through a lens. It makes ground look real, and files large.
        self._grain = grain = 0.52 * noise(rng, n, 6, 0.3)
        soft, rough, broad = noise(rng, n, 120, 1.7), noise(rng, n, 24, 1.1), noise(rng, n, 300, 2.0)
        self._flat = out = {}
        out["rows"] = _rows(rng, 3.4, 0.5, 1.2, 0.07, 0.35)
        out["broad_rows"] = _rows(rng, 7.0, 0.42, 1.8, 0.08, 0.35)
        # Lines in hay and on tilled ground are faint: both may look like meadow and bare ground.
        out["hay"] = 0.3 * _rows(rng, 12.0, 0.22, 4.0, 0.08, 0.5) + 0.35 + 0.13 * soft + 0.07 * rough + 0.05 * grain
        strips = np.repeat(rng.uniform(-1, 1, SIZE // 8), 8)[None]
        out["tilled"] = 0.5 + 0.13 * soft + 0.07 * strips + 0.05 * rough + 0.05 * grain
        out["meadow"] = 0.5 + 0.15 * soft + 0.08 * rough + 0.05 * grain + 0.06 * broad
        out["tussock"] = 0.5 + 0.10 * noise(rng, n, 9, 0.6) + 0.12 * soft + 0.06 * grain
        out["paved"] = 0.5 + 0.06 * soft + 0.04 * grain + 0.06 * rough
        out["water"] = 0.45 + 0.1 * broad + 0.03 * grain
        self._heights = {"sand": 4 * noise(rng, n, 120, 2.4, 5) + 0.5 * noise(rng, n, 14, 1.5, 5),
                         "rock": (noise(rng, n, 90, 1.6, 3) * 4 + 2.5 * np.floor(1.5 * noise(rng, n, 70, 2.0, 5))
                                  - 8 * np.abs(noise(rng, n, 170, 2.3, 5)))}
        self._tint = np.clip((soft + 2) * TINTS / 4, 0, TINTS - 1).astype(np.uint16) * SHADES
        # The order in which grass grows over pixels of bare ground, 0 to 254: in patches, with ragged edges.
        patchy = noise(rng, n, 150, 1.5, 3)
        self.grass_rank = (patchy.ravel().argsort().argsort().reshape(n) * (254 / SIZE ** 2)).astype(np.uint8)

    def lit(self, sun):
        """All swatches (len(NAMES), 1024, 1024), uint16, ``tint * 128 + shade``; and ranks of crowns, uint8.

        ``sun`` is its azimuth, clockwise from north, and its elevation, in radians. A pixel belongs to a crown or its
        shadow where the cover is above the pixel's rank.
        """
        packed = np.empty((len(self.NAMES), SIZE, SIZE), np.uint16)
        ranks = np.empty((len(self.CROWNS), SIZE, SIZE), np.uint8)
        for i, name in enumerate(self.NAMES):
            tint = self._tint
            if name in self._crowns:
                height, owner, rank = self._crowns[name]
                shadow = _shadows(height, rank, sun)
                shade = np.where(rank < 255, _stretch(_light(height, sun), 0.3, 0.95), 0.9)
                shade = np.where(shadow < 255, np.where(rank < 255, shade * 0.5, 0.06), shade)
                ranks[i] = np.tile(np.minimum(rank, shadow), (2, 2))
                shade, tint = np.tile(shade, (2, 2)) + 0.05 * self._grain, np.tile(owner, (2, 2)) * SHADES
            elif name in self._heights:
                shade = _stretch(_light(self._heights[name], sun), 0.15, 0.85) + 0.05 * self._grain
            else:
                shade = self._flat[name]
            packed[i] = np.clip(shade * SHADES, 0, SHADES - 1).astype(np.uint16) + tint
        return packed, ranks


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
    """Colours (TINTS * SHADES, 4) from those of the shades 0, 64 and 127.

    The eight tints differ by ``tint``, a share of the colour, in the direction ``shift`` (four bands).
    """
    at = np.linspace(0, 2, SHADES)[None, :, None]
    dark, middle, light = (np.asarray(c, float)[None, None] for c in (dark, middle, light))
    ramp = np.where(at < 1, dark + (middle - dark) * at, middle + (light - middle) * (at - 1))
    tints = np.linspace(-1, 1, TINTS)[:, None, None] * tint * np.asarray(shift)[None, None]
    return (ramp * (1 + tints)).reshape(-1, 4)


def pack(colours):
    """Four-band colours (..., 4) as packed uint32 (...); never 0, which is nodata."""
    return np.ascontiguousarray(np.clip(np.round(colours), 2, 250).astype(np.uint8)).view("<u4")[..., 0]


def contrast(colour, amount, light=1.0):
    """Dark, middle and light of a colour whose shades differ by ``amount`` (share of the colour)."""
    return colour * (1 - amount), colour, colour * (1 + amount * light)
