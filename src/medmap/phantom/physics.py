"""How a scanner makes noise: photons through projections (CT), two noisy channels (MR), interference (ultrasound)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError

Floats = NDArray[np.float64]

WATER_PER_MM = 0.0195  # linear attenuation of water near 65 keV (NIST XCOM: 0.193 to 0.197 /cm)
ANGLES_PER_BLOCK = 16


def _cumulative_footprint(t: Floats, angle: float) -> Floats:
    """Integral up to ``t`` of a unit pixel's shadow: a trapezoid, the convolution of two boxes."""
    wide, narrow = sorted((abs(math.cos(angle)), abs(math.sin(angle))), reverse=True)
    narrow = max(narrow, 1e-9)

    def ramp(x: Floats) -> Floats:
        positive: Floats = np.maximum(x, 0) ** 2 / 2
        return positive

    outer, inner = (wide + narrow) / 2, (wide - narrow) / 2
    area: Floats = (ramp(t + outer) - ramp(t + inner) - ramp(t - inner) + ramp(t - outer)) / (wide * narrow)
    return area


@lru_cache(maxsize=64)
def _block(side: int, count: int, first: int) -> Any:
    """System matrix of some angles: (angles·bins, side²), each entry the part of a pixel seen by a detector bin."""
    from scipy.sparse import csr_matrix

    bins = detector_bins(side)
    middle = (side - 1) / 2
    row, column = (np.indices((side, side)) - middle).reshape(2, -1)
    rows, columns, weights = [], [], []
    for number in range(min(ANGLES_PER_BLOCK, count - first)):
        angle = math.pi * (first + number) / count
        s = column * math.cos(angle) + row * math.sin(angle) + (bins - 1) / 2
        nearest = np.rint(s).astype(np.int64)
        for neighbour in (-1, 0, 1):  # a shadow is at most √2 wide: it falls on no more than three bins
            edge = nearest + neighbour - 0.5 - s
            weight = _cumulative_footprint(edge + 1, angle) - _cumulative_footprint(edge, angle)
            seen = weight > 1e-6
            rows.append(number * bins + nearest[seen] + neighbour)
            columns.append(np.flatnonzero(seen))
            weights.append(weight[seen])
    shape = (min(ANGLES_PER_BLOCK, count - first) * bins, side * side)
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return csr_matrix(entries, shape=shape)


def detector_bins(side: int) -> int:
    """Detector bins (one pixel wide) that see the whole square from every angle."""
    return math.ceil(side * math.sqrt(2)) + 3


def _blocks(side: int, angles: int) -> list[Any]:
    build = _block if side <= 128 else _block.__wrapped__  # large matrices are not kept
    return [build(side, angles, first) for first in range(0, angles, ANGLES_PER_BLOCK)]


def project(images: Floats, angles: int) -> Floats:
    """Parallel-beam line integrals of square images, in pixel units.

    Args:
        images: (n, side, side), attenuation per pixel.
        angles: Number of views over 180°.

    Returns:
        (n, angles, bins).

    Raises:
        DataError: The images are not square.
    """
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise DataError("projections are made of square images", got=images.shape, expected="(n, side, side)")
    flat = images.reshape(len(images), -1).T
    parts = [matrix @ flat for matrix in _blocks(images.shape[1], angles)]
    sinogram: Floats = np.concatenate(parts).T.reshape(len(images), angles, -1)
    return sinogram


def back_project(sinogram: Floats, side: int, soft: bool = False) -> Floats:
    """Filtered back projection (Kak & Slaney 1988, chapter 3): the ramp filter sampled in space, then shadows added.

    Args:
        sinogram: (n, angles, bins), pixel units.
        side: Rows and columns of the images.
        soft: Also apply a Hann window: less noise, less detail (a "soft tissue kernel").

    Returns:
        (n, side, side), attenuation per pixel.
    """
    _, angles, bins = sinogram.shape
    length = 2 ** math.ceil(math.log2(2 * bins))
    n = np.minimum(np.arange(length), length - np.arange(length))
    kernel = np.where(n % 2 == 1, -1 / (math.pi * np.maximum(n, 1)) ** 2, 0.0)
    kernel[0] = 0.25
    ramp = np.fft.rfft(kernel).real
    if soft:
        ramp *= 0.5 + 0.5 * np.cos(math.pi * np.arange(len(ramp)) / (len(ramp) - 1))
    filtered = np.fft.irfft(np.fft.rfft(sinogram, length, axis=2) * ramp, length, axis=2)[:, :, :bins]
    columns = filtered.reshape(len(sinogram), -1).T
    total: Floats = np.zeros((side * side, len(sinogram)))
    for number, matrix in enumerate(_blocks(side, angles)):
        start = number * ANGLES_PER_BLOCK * bins
        total += matrix.T @ columns[start : start + matrix.shape[0]]
    images: Floats = (total * math.pi / angles).T.reshape(-1, side, side)
    return images


def scan_ct(
    slices_hu: Floats, pixel_mm: float, photons: float | None, rng: np.random.Generator, soft: bool = False
) -> Floats:
    """What a CT scanner makes of true HU: projections, Poisson-distributed photon counts, filtered back projection.

    Args:
        slices_hu: (n, rows, columns) true HU; padded with air to a square.
        pixel_mm: Pixel spacing.
        photons: Photons a ray starts with; None for a scan without noise.
        rng: Where the photons come from.
        soft: Reconstruction kernel.

    Returns:
        (n, rows, columns) HU.

    Raises:
        DataError: Photons that are not a positive number.
    """
    if photons is not None and not photons > 0:
        raise DataError("a CT scan needs photons", got=photons, expected="> 0, or None for no noise")
    rows, columns = slices_hu.shape[1:]
    side = max(rows, columns)
    low = ((side - rows) // 2, (side - columns) // 2)
    pads = [(0, 0), (low[0], side - rows - low[0]), (low[1], side - columns - low[1])]
    per_pixel = WATER_PER_MM * pixel_mm
    attenuation = np.pad(np.maximum(1 + slices_hu / 1000, 0), pads) * per_pixel
    line_integrals = project(attenuation, angles=_views(side))
    if photons is not None:
        counts = rng.poisson(photons * np.exp(-line_integrals))
        line_integrals = -np.log(np.maximum(counts, 1) / photons)
    image = back_project(line_integrals, side, soft)
    hu: Floats = 1000 * (image / per_pixel - 1)
    return hu[:, low[0] : low[0] + rows, low[1] : low[1] + columns]


def _views(side: int) -> int:
    """Views enough that streaks of undersampling stay below the noise: 1.5 a pixel."""
    return 3 * side // 2


def rician(signal: Floats, sigma: float, rng: np.random.Generator) -> Floats:
    """Magnitude MR: noise of ``sigma`` in both channels, then the length of the two (Gudbjartsson & Patz 1995).

    In air the mean is σ·√(π/2); at high signal S it is about √(S² + σ²).
    """
    noise = rng.normal(0, sigma, (2, *signal.shape))
    magnitude: Floats = np.hypot(signal + noise[0], noise[1])
    return magnitude


def bias_field(shape: tuple[int, ...], strength: float, rng: np.random.Generator) -> Floats:
    """A smooth factor, as a receive coil makes: exp of a quadratic, from exp(−strength) to exp(strength)."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    terms = [*axes, *(a * b for i, a in enumerate(axes) for b in axes[i:])]
    weights = rng.normal(size=len(terms))
    field = np.tensordot(weights, np.stack(terms), axes=1)
    middle, half = (field.max() + field.min()) / 2, (field.max() - field.min()) / 2
    smooth: Floats = np.exp(strength * (field - middle) / half)
    return smooth


def speckle(reflectivity: Floats, grain_voxels: float, rng: np.random.Generator) -> Floats:
    """Ultrasound B mode: echoes of random scatterers interfere (Wagner 1983: a Rayleigh envelope), log-compressed.

    Args:
        reflectivity: Echo power, arbitrary unit.
        grain_voxels: Size of a grain of speckle.
        rng: Where the scatterers lie.

    Returns:
        0…1 over 50 dB.
    """
    from scipy.ndimage import gaussian_filter

    scatter = rng.normal(size=(2, *reflectivity.shape)) * np.sqrt(reflectivity)
    echo = np.hypot(*(gaussian_filter(part, grain_voxels) for part in scatter))
    decibel = 20 * np.log10(np.maximum(echo / (np.median(echo) + 1e-12), 1e-6))
    grey: Floats = np.clip((decibel + 35) / 50, 0, 1)
    return grey
