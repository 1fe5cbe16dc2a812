"""Provenance: the versions and the machine, as JSON can hold them."""

import json

from stentor import __version__
from stentor.provenance import machine, versions


def test_versions_name_what_decides_a_text() -> None:
    assert set(versions()) == {"stentor", "torch", "numba", "tokenizers", "python"}
    assert versions()["stentor"] == __version__


def test_the_machine_is_described() -> None:
    described = json.loads(json.dumps(machine()))
    assert described["processor"] and described["system"]
    assert described["cores"] >= 1 and described["memory_bytes"] > 0
