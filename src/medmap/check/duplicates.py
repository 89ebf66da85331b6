"""Which images are the same, to the bit or to the eye, among hundreds of thousands.

Two images that look the same have perceptual hashes that differ in few bits. Hashes are cut into four bands: when two
differ in at most seven bits, one band differs in at most one, so looking up every band and its sixteen neighbours
finds every such pair (Manku, Jain & Das Sarma 2007) without comparing all with all. A pair that the hash proposes is
then verified on the thumbnails, after what all images have in common was taken away: aligned anatomy looks alike in
everybody, a second copy looks alike in what is its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Thumbnails = NDArray[np.uint8]

HASH_SIDE = 8  # lowest cosine frequencies of each axis
MOST_BITS = 7  # hashes that differ by more are not looked at; what four bands find
PAIRS_AT_ONCE = 2_000_000
OWN_CORRELATION = 0.97  # of what is left after the common part of all images is taken away
EDGE_CORRELATION = 0.90  # of the edges, which brightness, compression and rescaling leave in place
PRIOR_IMAGES = 20  # how many images' worth of "nothing in common" a small dataset's common part is shrunk by


def perceptual_hashes(thumbnails: Thumbnails) -> NDArray[np.uint64]:
    """(n,) 64-bit hashes: signs of the lowest 8×8 cosine coefficients against their median (Zauner 2010, pHash).

    Args:
        thumbnails: (n, 32, 32) uint8.
    """
    side = thumbnails.shape[1]
    k, x = np.arange(HASH_SIDE)[:, None], np.arange(side)
    basis = np.cos(np.pi * k * (2 * x + 1) / (2 * side)).astype(np.float32)
    hashes = np.empty(len(thumbnails), np.uint64)
    weights = np.uint64(1) << np.arange(HASH_SIDE**2, dtype=np.uint64)
    for start in range(0, len(thumbnails), 4096):
        block = thumbnails[start : start + 4096].astype(np.float32)
        spectrum = (basis @ block @ basis.T).reshape(len(block), -1)
        spectrum[:, 0] = 0  # mean brightness says nothing
        bits = spectrum > np.median(spectrum[:, 1:], axis=1, keepdims=True)
        hashes[start : start + 4096] = (bits * weights).sum(axis=1, dtype=np.uint64)
    return hashes


@dataclass(frozen=True, eq=False)
class _Band:
    """Sixteen bits of every hash, with the places where each value stands."""

    keys: NDArray[np.uint16]
    order: NDArray[np.int64]
    first: NDArray[np.int64]

    @classmethod
    def of(cls, keys: NDArray[np.uint16]) -> _Band:
        counts = np.bincount(keys, minlength=2**16)
        return cls(keys, np.argsort(keys, kind="stable"), np.concatenate([[0], np.cumsum(counts)]))

    def neighbours(self, flip: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Pairs (i, j) with ``keys[i] ^ flip == keys[j]``, i < j, in chunks of bounded memory."""
        wanted = self.keys ^ np.uint16(flip)
        first = self.first[wanted]
        count = self.first[wanted.astype(np.int64) + 1] - first
        ends = np.cumsum(count)
        start = 0
        while start < len(wanted):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, "right")))
            here = count[start:stop]
            i = np.repeat(np.arange(start, stop), here)
            within = np.arange(len(i)) - np.repeat(np.cumsum(here) - here, here)
            j = self.order[np.repeat(first[start:stop], here) + within]
            keep = i < j
            yield i[keep], j[keep]
            start = stop


def similar_hashes(hashes: NDArray[np.uint64], most_bits: int = MOST_BITS) -> NDArray[np.int64]:
    """(pairs, 2) indices i < j of hashes that differ in at most ``most_bits`` ≤ 7 bits, each pair once.

    Example:
        >>> similar_hashes(np.array([0, 7, 2**40 - 1], np.uint64)).tolist()
        [[0, 1]]
    """
    found: list[NDArray[np.int64]] = []
    for band in range(4):
        cut = _Band.of(((hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)).astype(np.uint16))
        for flip in (0, *(1 << bit for bit in range(16))):
            for i, j in cut.neighbours(flip):
                close = np.bitwise_count(hashes[i] ^ hashes[j]) <= most_bits
                found.append(np.stack([i[close], j[close]], axis=1))
    pairs = np.concatenate(found) if found else np.zeros((0, 2), np.int64)
    return np.unique(pairs, axis=0) if len(pairs) else pairs.reshape(0, 2)


@dataclass(frozen=True, eq=False)
class Own:
    """Thumbnails without what all images have in common, ready to be compared."""

    thumbnails: Thumbnails
    mean: Floats
    sd: Floats

    @classmethod
    def of(cls, thumbnails: Thumbnails) -> Own:
        """The common part of a dataset: mean and spread of each pixel over standardised thumbnails."""
        total, squares = (np.zeros(thumbnails[0].size, np.float64) for _ in range(2))
        for start in range(0, len(thumbnails), 4096):
            block = _standardised(thumbnails[start : start + 4096])
            total += block.sum(axis=0)
            squares += (block**2).sum(axis=0)
        n = len(thumbnails) + PRIOR_IMAGES
        mean = total / n
        variance = (squares + PRIOR_IMAGES) / n - mean**2
        return cls(thumbnails, mean.astype(np.float32), np.sqrt(np.maximum(variance, 0.01)).astype(np.float32))

    def correlations(self, pairs: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Correlation of each pair in what is its own, and in its edges."""
        own, edges = [], []
        for start in range(0, len(pairs), 4096):
            i, j = pairs[start : start + 4096].T
            a, b = (_standardised(self.thumbnails[k]) for k in (i, j))
            own.append(_correlation((a - self.mean) / self.sd, (b - self.mean) / self.sd))
            edges.append(_correlation(_edges(a), _edges(b)))
        return np.concatenate(own), np.concatenate(edges)


def _standardised(block: Thumbnails) -> Floats:
    flat = block.reshape(len(block), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    scaled: Floats = flat / np.maximum(flat.std(axis=1, keepdims=True), 1e-6)
    return scaled


def _edges(flat: Floats) -> Floats:
    side = int(np.sqrt(flat.shape[1]))
    square = flat.reshape(-1, side, side)
    down, across = np.diff(square, axis=1), np.diff(square, axis=2)
    return np.concatenate([down.reshape(len(flat), -1), across.reshape(len(flat), -1)], axis=1)


def _correlation(a: Floats, b: Floats) -> Floats:
    a = a - a.mean(axis=1, keepdims=True)
    b = b - b.mean(axis=1, keepdims=True)
    length = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    result: Floats = (a * b).sum(axis=1) / np.maximum(length, 1e-12)
    return result


def near_pairs(thumbnails: Thumbnails) -> NDArray[np.int64]:
    """(pairs, 2) indices i < j of images that look the same.

    Args:
        thumbnails: (n, 32, 32) uint8, without blank ones and without exact copies.
    """
    if len(thumbnails) < 2:
        return np.zeros((0, 2), np.int64)
    pairs = similar_hashes(perceptual_hashes(thumbnails))
    if not len(pairs):
        return pairs
    own, edges = Own.of(thumbnails).correlations(pairs)
    return pairs[(own >= OWN_CORRELATION) & (edges >= EDGE_CORRELATION)]


def groups_of(count: int, pairs: NDArray[np.int64]) -> list[list[int]]:
    """Connected groups of two and more.

    Example:
        >>> groups_of(5, np.array([[0, 2], [2, 4]]))
        [[0, 2, 4]]
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return []
    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    members: dict[int, list[int]] = {}
    for index in np.unique(pairs):
        members.setdefault(int(component[index]), []).append(int(index))
    return sorted(members.values())


def equal_groups(keys: Sequence[Hashable]) -> list[list[int]]:
    """Positions of equal keys, groups of two and more.

    Example:
        >>> equal_groups(["a", "b", "a", "c"])
        [[0, 2]]
    """
    at: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        at.setdefault(key, []).append(index)
    return [found for found in at.values() if len(found) > 1]
