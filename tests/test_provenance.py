"""Provenance: the versions and the machine, as JSON can hold them."""

import json
import sys
from pathlib import Path

import pytest

from stentor import __version__
from stentor.provenance import cores_allowed, machine, versions


def test_versions_name_what_decides_a_text() -> None:
    assert set(versions()) == {"stentor", "torch", "numba", "tokenizers", "python"}
    assert versions()["stentor"] == __version__


def test_the_machine_is_described() -> None:
    described = json.loads(json.dumps(machine()))
    assert described["processor"] and described["system"]
    assert described["cores"] >= 1 and described["memory_bytes"] > 0


@pytest.mark.parametrize(
    ("written", "cores"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("max 100000", sys.maxsize),
        ("200000 0", sys.maxsize),
        ("", sys.maxsize),
    ],
)
def test_a_container_is_not_given_the_cores_it_only_sees(
    tmp_path: Path, written: str, cores: int
) -> None:
    # A hosted container saw sixteen cores and was allowed two: as many threads would hold each
    # other up.
    (tmp_path / "cpu.max").write_text(written + "\n", encoding="ascii")
    assert cores_allowed(tmp_path) == cores


def test_a_machine_without_control_groups_has_all_its_cores(tmp_path: Path) -> None:
    assert cores_allowed(tmp_path) == sys.maxsize
