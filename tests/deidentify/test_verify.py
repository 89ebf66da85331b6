"""What stands in the bytes of pixel data: whole names and long values, not short words that occur by chance."""

from __future__ import annotations

import numpy as np
import pytest

from medmap.deidentify.identity import Identity
from medmap.deidentify.verify import Residual, found_in_pixels


def identity() -> Identity:
    made = Identity()
    made.add_name("Doe^Jane")
    return made


@pytest.mark.parametrize("text", [b"Doe Jane", b"jane^doe", b"DOE, JANE", b"Jane_Doe", b"jane-doe"])
def test_two_parts_of_a_name_side_by_side_are_found(text: bytes) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes()
    assert found_in_pixels(noise + text + noise, identity()) == [Residual("pixels", "name")]


@pytest.mark.parametrize("text", [b"", b"doe", b"jane", b"doe but jane", b"doe.doe", b"doejanet"])
def test_a_short_word_alone_is_chance(text: bytes) -> None:
    noise = np.random.default_rng(1).integers(0, 256, 2_000_000, np.uint8).tobytes()
    assert found_in_pixels(noise + text + b"\0" + noise, identity()) == []
