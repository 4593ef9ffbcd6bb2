"""Invented names, never the same in two splits, and other values to copy from prompts."""

import random
import zlib
from typing import Literal

from linalign_integrations.pocket import world

__all__ = ["Draws", "Split", "is_held_out", "is_held_out_name"]

# How often a name is written in another script than Latin. Copying such names is learnt last, so
# training meets them more often.
FOREIGN = {"train": 0.2, "held_out": 0.06}

Split = Literal["train", "held_out"]


def is_held_out_name(name: str) -> bool:
    """Whether an invented name is kept out of training."""
    return is_held_out(name.lower(), 8)


def is_held_out(text: str, one_in: int) -> bool:
    """Whether a text belongs to the share of one in so many that training never sees."""
    return zlib.crc32(text.encode()) % one_in == 0


class Draws:
    """Draws names, numbers and words of a split; all from one random generator."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        """Draw from a generator."""
        self.rng = rng
        self.split = split

    def name(self) -> str:
        """Invent a name of one word, now and then in another script than Latin."""
        rng = self.rng
        if rng.random() > FOREIGN[self.split]:
            return self.word()
        while True:
            letters = rng.choice(world.SCRIPTS)
            name = "".join(chr(rng.choice(letters)) for _ in range(rng.choice((2, 3, 4, 5, 6))))
            if is_held_out_name(name.capitalize()) == (self.split == "held_out"):
                return name.capitalize()

    def word(self) -> str:
        """Invent a word of this split in Latin letters, like a name of one word."""
        rng = self.rng
        while True:
            parts = [
                rng.choice(world.ONSETS) + rng.choice(world.VOWELS) + rng.choice(world.CODAS)
                for _ in range(rng.choice((2, 2, 2, 3)))
            ]
            name = "".join(parts)
            if rng.random() < 0.08:
                name = name.translate(world.ACCENTS)
            if 4 <= len(name) <= 10 and is_held_out_name(name) == (self.split == "held_out"):
                return name.capitalize()

    def value(self, kind: str) -> str:
        """Draw a value of a kind that `world.RELATIONS` or `toolbox.PARAMETERS` name."""
        rng = self.rng
        match kind:
            case "name":
                return self.name()
            case "person":
                return rng.choice((self.name(), f"{self.name()} {self.name()}"))
            case "street":
                return f"{self.name()} {rng.choice(('Street', 'Square', 'Road'))}"
            case "title":
                middle = rng.choice((" ", " ", " and ", " of ", " the "))
                return f"{self.name()}{middle}{self.name()}"
            case "phrase":
                return f"{rng.choice(world.COLOURS)} {rng.choice(world.GOODS)}"
            case "time":
                return f"{rng.randrange(6, 23)}:{rng.choice(('00', '15', '30', '45', '10', '20'))}"
            case "price":
                return f"{rng.randrange(2, 100)} {rng.choice(('euros', 'dollars', 'pounds'))}"
            case "grams":
                return f"{self.value('number')} grams"
            case "years" | "days":
                return f"{rng.randrange(2, 60)} {kind}"
            case "year":
                return str(rng.randrange(1700, 2025))
            case "digits":
                return "".join(rng.choice("123456789") for _ in range(rng.choice((4, 5, 6))))
            case "number":
                return str(rng.randrange(10, 10 ** rng.choice((2, 3, 4)) + 10))
            case "small":
                return str(rng.randrange(1, 60))
            case "decimal":
                whole = str(rng.randrange(1, 200))
                return (
                    whole if rng.random() < 0.15 else f"{whole}.{rng.randrange(1, 100)}".rstrip("0")
                )
            case "any":
                return self.value(rng.choice(("name", "name", "number", "colour", "goods")))
            case _:
                return rng.choice(world.WORDS[kind])
