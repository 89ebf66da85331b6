"""How much painted text is found in pictures, and how often something is found where there is none.

Plants names and dates in phantom CT, MR, ultrasound and noise: letters of 10 to 40 pixels, at the top, middle and
bottom, left and right, in white, black and grey ink at least 30 % of the range away from what is under it. A line
counts as found when 90 % of its ink lies in boxes. False boxes are counted on the same pictures without text, at their
own size and enlarged, and on real pictures without text (``--real FOLDER``: the folders ``bccd``, ``chase_db1``,
``medmnist``, ``spine``, ``hippocampus`` in it, where present). Half of the seeds (even) are for tuning, the others are
reported by default.

``--only check`` asks instead in how many of these pictures ``medmap check`` notices the line, and in how many without
one it thinks that there is text; with ``--real``, photographs of the fundus with a line beside their round field and in
it are asked too.

Prints one JSON line a group: ``{name, group, lines, found, recall}`` or ``{name, group, pictures, …}``.
There is no peer: the package that one would compare with (presidio-image-redactor) calls the same tesseract.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from medmap import phantom
from medmap.check.burned import TextLook
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.read.text import find_text

SIDE = 512
GROUNDS = ("CT", "MR", "US", "noise")
FAMILIES = ("VANDERMOLEN", "Okonkwo", "LINDQVIST", "Szymanski", "ABERNATHY", "Li", "DOE")
GIVEN = ("PHILIPPA", "Thaddeus", "MARGUERITE", "Leopold", "ANN")
INKS = ("white", "black", "grey")


def ground(kind: str, seed: int) -> np.ndarray:
    """A picture of about 96 by 96, 8 bits."""
    if kind == "noise":
        return np.clip(np.random.default_rng(seed).normal(110, 22, (128, 128)), 0, 255).astype(np.uint8)
    if kind == "CT":
        array = phantom.ct_slice(seed, shape=(96, 96)).image.array
    elif kind == "US":
        array = phantom.ultrasound(seed, shape=(96, 96)).image.array
    else:
        volume = phantom.mr_volume(seed).image.array
        array = volume[:, :, volume.shape[2] // 2]
    low, high = float(array.min()), float(array.max())
    return ((array - low) * (220 / max(high - low, 1e-6)) + 16).astype(np.uint8)


def enlarged(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The picture with a longer side of ``side`` pixels."""
    factor = side / max(picture.shape[:2])
    rows, columns = (round(n * factor) for n in picture.shape[:2])
    return np.asarray(Picture.fromarray(picture).resize((columns, rows), Picture.Resampling.BICUBIC))


def planted(picture: np.ndarray, draw: random.Random) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """A picture with one line in it, where its ink is, and what kind of line it is."""
    date = f"{draw.randrange(1920, 2020)}-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02}"
    name = f"{draw.choice(FAMILIES)}, {draw.choice(GIVEN)}"
    text = draw.choice([name, date, f"{name} {date}", f"ID {draw.randrange(10**6, 10**8)}", name.replace(", ", "^")])
    size, ink = draw.choice([10, 12, 14, 18, 24, 32, 40]), draw.choice(INKS)
    where = draw.choice(["top", "middle", "bottom"]), draw.choice(["left", "right"])
    font = ImageFont.load_default(size)
    _, _, right, bottom = ImageDraw.Draw(Picture.new("L", (8, 8))).textbbox((0, 0), text, font=font)
    row = {"top": 6, "middle": SIDE // 2 - size, "bottom": SIDE - 8 - bottom}[where[0]] + draw.randrange(-3, 4)
    column = 6 if where[1] == "left" else max(2, SIDE - 8 - right)
    under = picture[row : row + bottom, column : column + right].astype(float)
    value = {"white": 255, "black": 0, "grey": int(np.clip(np.median(under) + draw.choice([-90, 90]), 0, 255))}[ink]
    low, high = np.percentile(under, (5, 95))
    if min(abs(value - low), abs(value - high)) < 0.3 * 255 or low < value < high:  # not clearly visible here
        value = 255 if 255 - high >= low else 0
        ink = "white" if value else "black"
    canvas = Picture.fromarray(picture)
    ImageDraw.Draw(canvas).text((column, row), text, fill=value, font=font)
    made = np.asarray(canvas)
    strength = np.abs(made.astype(int) - picture)
    mask = strength > 0.5 * strength.max()
    return made, mask, {"size": f"{size} px", "ink": ink, "row": where[0], "side": where[1]}


def covered(mask: np.ndarray, boxes: Any) -> float:
    """The share of ink in boxes."""
    inside = np.zeros(mask.shape, bool)
    for box in boxes:
        inside[box.row0 : box.row1, box.column0 : box.column1] = True
    return float((mask & inside).sum() / max(1, mask.sum()))


def recall(seeds: list[int], thorough: bool, verbose: bool) -> None:
    """Print how many planted lines are found."""
    counts: dict[tuple[str, str], list[bool]] = defaultdict(list)
    begin = time.process_time()
    for seed in seeds:
        for kind in GROUNDS:
            draw = random.Random(f"{seed} {kind}")
            made, mask, groups = planted(enlarged(ground(kind, seed)), draw)
            share = covered(mask, find_text(made, thorough=thorough))
            for name, value in {"all": "all", "ground": kind, **groups}.items():
                counts[name, value].append(share >= 0.9)
            if verbose and share < 0.9:
                print(json.dumps({"missed": kind, "seed": seed, "share": round(share, 2), **groups}), flush=True)
    name = f"painted text, {'thorough' if thorough else 'quick'}"
    for (group, value), found in sorted(counts.items()):
        print(json.dumps({"name": name, "group": f"{group}: {value}", "lines": len(found), "found": sum(found),
                          "recall": round(sum(found) / len(found), 4)}), flush=True)  # fmt: skip
    print(json.dumps({"name": name, "seconds_a_picture": round((time.process_time() - begin) / len(seeds) / 4, 3)}))


def real_pictures(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Real pictures without painted text."""
    from medmap.read import read

    for path in sorted((folder / "bccd").rglob("*.jpg"))[:24]:
        yield "bccd", np.asarray(Picture.open(path).convert("RGB"))
    for path in sorted((folder / "chase_db1").rglob("*.jpg"))[:12]:
        yield "chase_db1", np.asarray(Picture.open(path).convert("RGB"))
    if (folder / "medmnist" / "breastmnist.npz").exists():
        for image in np.load(folder / "medmnist" / "breastmnist.npz")["train_images"][:24]:
            yield "breastmnist enlarged", enlarged(image)
    for name in ("spine", "hippocampus"):
        for path in sorted((folder / name).rglob("*.nii.gz"))[:16]:
            array = read(path).array
            if array.ndim == 3 and array.dtype.kind != "O":
                middle = array[:, :, array.shape[2] // 2].astype(float)
                if np.ptp(middle) > 4:
                    scaled = np.clip((middle - middle.min()) * (255 / np.ptp(middle)), 0, 255).astype(np.uint8)
                    yield f"{name} enlarged", enlarged(scaled)


def false_boxes(pictures: Iterator[tuple[str, np.ndarray]], thorough: bool) -> None:
    """Print how many boxes are found in pictures without text."""
    counts: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for name, picture in pictures:
        begin = time.perf_counter()
        boxes = find_text(picture, thorough=thorough)
        share = covered(np.ones(picture.shape[:2], bool), boxes)
        counts[name].append((len(boxes), share, time.perf_counter() - begin))
    for group, found in sorted(counts.items()):
        print(json.dumps({"name": f"false boxes, {'thorough' if thorough else 'quick'}", "group": group,
                          "pictures": len(found), "pictures_with_boxes": sum(n > 0 for n, _, _ in found),
                          "boxes_a_picture": round(sum(n for n, _, _ in found) / len(found), 3),
                          "area_blackened": round(sum(s for _, s, _ in found) / len(found), 5),
                          "slowest_s": round(max(t for _, _, t in found), 2)}), flush=True)  # fmt: skip


def phantoms(seeds: list[int]) -> Iterator[tuple[str, np.ndarray]]:
    """The pictures of the recall without text, at their own size and enlarged."""
    for seed in seeds:
        for kind in GROUNDS:
            picture = ground(kind, seed)
            yield f"{kind}, own size", picture
            yield f"{kind}, enlarged", enlarged(picture)


def noticed(picture: np.ndarray) -> bool:
    """Whether check says of a picture, looked at alone, that it holds text."""
    geometry = Geometry.without_size(picture.shape[:2])
    if picture.ndim == 3:
        return bool(TextLook(1).lines(Image(picture, geometry, "colour", ("red", "green", "blue"))))
    return bool(TextLook(1).lines(Image(picture, geometry)))


def in_photographs(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Photographs of the fundus as they are, with a line on the black beside their field, and with one in it."""
    for seed, path in enumerate(sorted((folder / "chase_db1").rglob("*.jpg"))):
        picture = Picture.open(path).convert("RGB")
        draw = random.Random(seed)
        text = f"{draw.choice(FAMILIES)} {draw.randrange(1920, 2020)}-{draw.randrange(1, 13):02}-11"
        ink = draw.choice([(255, 255, 255), (255, 255, 0)])
        font = ImageFont.load_default(draw.choice([14, 18, 24, 32]))
        yield "fundus without text", np.asarray(picture)
        for name, place in (("beside the field", (8, 8)), ("in the field", (300, 450))):
            canvas = picture.copy()
            ImageDraw.Draw(canvas).text(place, text, fill=ink, font=font)
            yield f"fundus, {name}", np.asarray(canvas)


def check_look(seeds: list[int], real: Path | None) -> None:
    """Print in how many pictures check notices text, and what a look costs."""
    counts: dict[str, list[tuple[bool, float]]] = defaultdict(list)

    def asked(picture: np.ndarray, *groups: str) -> None:
        begin = sum(os.times()[:4])
        answer = noticed(picture), sum(os.times()[:4]) - begin
        for group in groups:
            counts[group].append(answer)

    for seed in seeds:
        for kind in GROUNDS:
            bare = enlarged(ground(kind, seed))
            made, _, groups = planted(bare, random.Random(f"{seed} {kind}"))
            asked(made, "all", kind, groups["size"])
            asked(bare, "all without text")
    for group, picture in () if real is None else in_photographs(real):
        asked(picture, group)
    for group, found in sorted(counts.items()):
        print(json.dumps({"name": "text noticed by check", "group": group, "pictures": len(found),
                          "noticed": sum(n for n, _ in found),
                          "cpu_s_a_picture": round(sum(t for _, t in found) / len(found), 3)}), flush=True)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="recall and false boxes of the search for painted text")
    parser.add_argument("--seeds", type=int, default=60, help="of both halves together")
    parser.add_argument("--tune", action="store_true", help="the half for tuning instead of the other")
    parser.add_argument("--real", type=Path, help="folder of real pictures")
    parser.add_argument("--thorough", action="store_true", help="read the whole pictures too")
    parser.add_argument("--only", choices=["recall", "false", "check"], help="one part alone")
    parser.add_argument("--verbose", action="store_true", help="name what was missed")
    words = parser.parse_args()
    seeds = list(range(0 if words.tune else 1, words.seeds, 2))
    if words.only == "check":
        check_look(seeds, words.real)
        return
    if words.only != "false":
        recall(seeds, words.thorough, words.verbose)
    if words.only != "recall":
        false_boxes(phantoms(seeds[:10]), words.thorough)
        if words.real:
            pictures = list(real_pictures(words.real))
            false_boxes(iter(pictures[0 if words.tune else 1 :: 2]), words.thorough)


if __name__ == "__main__":
    main()
