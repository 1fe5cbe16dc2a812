"""The named recipes: one function each, returning a complete Recipe. Standard library only."""

from collections.abc import Callable

from stentor.knobs import choose
from training.recipe import Recipe, check_recipe
from training.recipes.card import card
from training.recipes.demo_pair import demo_pair
from training.recipes.demo_pair_scratch import demo_pair_scratch
from training.recipes.practice import practice
from training.recipes.stentor_big_plus import stentor_big_plus

RECIPES: dict[str, Callable[[], Recipe]] = {
    "practice": practice,
    "card": card,
    "stentor-big-plus": stentor_big_plus,
    "demo-pair": demo_pair,
    "demo-pair-scratch": demo_pair_scratch,
}


def find_recipe(name: str) -> Recipe:
    """Return the checked recipe of this name; an unknown one is refused with what exists."""
    return check_recipe(choose(RECIPES, name, "recipe")())
