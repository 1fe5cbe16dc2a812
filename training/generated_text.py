"""Text that the project makes itself, so that practice needs no download: three flavours.

Sentences come from small grammars with a seeded random generator: the same seed gives the same
documents on every machine. It teaches a model form, not facts.
"""

import random
from collections.abc import Callable, Iterator

from stentor.knobs import choose

PEOPLE = ("Ada", "Bram", "Chloe", "Dev", "Edith", "Farid", "Greta", "Hugo", "Ines", "Jonas")
PLACES = ("the harbour", "the mill", "the old library", "the market", "the hill", "the workshop")
THINGS = (
    "a brass key",
    "a folded map",
    "a clay jug",
    "a wooden box",
    "a blue lamp",
    "a torn letter",
)
FEELINGS = ("glad", "worried", "curious", "tired", "proud", "uneasy")
MATERIALS = ("iron", "copper", "glass", "salt", "chalk", "oak", "wool", "ice")
PROPERTIES = ("heavy", "brittle", "soft", "clear", "rough", "warm", "light", "hard")
WEATHER = ("rain", "fog", "wind", "snow", "sunshine", "frost")
TOWNS = ("Aldmere", "Brackwater", "Corvale", "Dunholt", "Eastry", "Fenwick")
TRADES = ("fishing", "weaving", "baking", "mining", "printing", "boat building")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def general(pick: random.Random) -> str:
    """Return a short factual paragraph about an invented town."""
    town, trade, weather = pick.choice(TOWNS), pick.choice(TRADES), pick.choice(WEATHER)
    other = pick.choice([name for name in TOWNS if name != town])
    people = pick.randrange(2, 90) * 100
    sentences = [
        f"{town} is a town of about {people} people.",
        f"Most of them live from {trade}, as their parents did.",
        f"In winter there is often {weather}, and the road to {other} is closed.",
        f"The largest building in {town} stands near {pick.choice(PLACES)}.",
        f"Every year the people of {other} come to {town} for the fair.",
        f"Visitors are told that {pick.choice(MATERIALS)} was once found here.",
    ]
    return " ".join(sentences[:2] + pick.sample(sentences[2:], 3))


def narrative(pick: random.Random) -> str:
    """Return a very short story with two people and one thing."""
    first, second = pick.sample(PEOPLE, 2)
    thing, place, feeling = pick.choice(THINGS), pick.choice(PLACES), pick.choice(FEELINGS)
    opening = pick.choice(
        (
            f"One morning {first} found {thing} near {place}.",
            f"It was late when {first} came back from {place} with {thing}.",
        )
    )
    answer = pick.choice(
        (
            f'"I have never seen it before," said {second}.',
            f'"Put it back where it was," said {second}.',
            f'"It belonged to my mother," said {second}, and looked away.',
        )
    )
    return "\n\n".join(
        (
            f"{opening} Nobody else was there, only the {pick.choice(WEATHER)}.",
            f'"Is this yours?" {first} asked.\n\n{answer}',
            f"{first} was {feeling} for a long time. In the evening they walked to "
            f"{pick.choice(PLACES)} together and did not speak of it again.",
        )
    )


def textbook(pick: random.Random) -> str:
    """Return a short explanation: a comparison of materials, or a sum done in steps."""
    if pick.random() < 0.5:
        left, right = pick.randrange(6), pick.randrange(5)
        return (
            f"To add {NUMBERS[left]} and {NUMBERS[right]}, begin with {NUMBERS[left]} and count on "
            f"{NUMBERS[right]} more. The result is {NUMBERS[left + right]}. The order does not "
            f"matter: {NUMBERS[right]} and {NUMBERS[left]} also make {NUMBERS[left + right]}."
        )
    first, second = pick.sample(MATERIALS, 2)
    kind, other_kind = pick.sample(PROPERTIES, 2)
    return (
        f"A property is something that can be observed and compared. For example, a piece of "
        f"{first} may be {kind}, while a piece of {second} is {other_kind}. If we want to know "
        f"which of the two is more {kind}, we test both in one way and write down what we see. "
        f"We then repeat the test, because one result alone proves little."
    )


FLAVOURS: dict[str, Callable[[random.Random], str]] = {
    "general": general,
    "narrative": narrative,
    "textbook": textbook,
}


def generate_documents(flavour: str, seed: int = 0) -> Iterator[str]:
    """Yield documents of one flavour without end.

    Raises:
        OptionError: there is no such flavour.
    """
    write = choose(FLAVOURS, flavour, "flavour of generated text")
    pick = random.Random(f"{flavour}:{seed}")
    while True:
        yield write(pick)
