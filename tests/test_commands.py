"""What the terminal commands share: text of a model can never steer a terminal."""

import pytest

from stentor.commands import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain café 😀\n\ttabbed", "plain café 😀\n\ttabbed"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("over\rwritten\b", "over\\x0dwritten\\x08"),
        ("\x9b31m \x7f \0", "\\x9b31m \\x7f \\x00"),
    ],
)
def test_control_characters_are_shown_not_obeyed(text: str, shown: str) -> None:
    assert printable(text) == shown
