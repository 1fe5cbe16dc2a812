"""The tile unit is used where there is one, and never changes a text; its products: test tile."""

import sys
from pathlib import Path

import pytest

from stentor.engine import cpu_decoder
from stentor.engine.cpu import amx
from stentor.engine.cpu.packing import Layout, layout_of
from stentor.engine.cpu_decoder import CpuDecoder
from stentor.engine.decoder import Answer, Measure, Piece
from stentor.engine.threads import ThreadBudget
from stentor.loading import open_checkpoint_folder


def test_int8_takes_the_tile_unit_where_there_is_one() -> None:
    assert layout_of("int8") is (Layout.QUADS if amx.HAS_AMX else Layout.PAIRS)
    assert layout_of("fp32") is Layout.FLOATS


def test_without_the_registers_nothing_is_asked_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(amx, "FEATURES", {"avx512bw": True})
    assert not amx.is_usable()
    monkeypatch.setattr(amx, "FEATURES", dict.fromkeys(("amx-tile", "amx-int8", "avx512bw"), True))
    monkeypatch.setattr(sys, "platform", "win32")
    assert not amx.is_usable()


@pytest.mark.skipif(not amx.HAS_AMX, reason="no tile unit (AMX) here")
def test_a_model_answers_the_same_bits_with_and_without_it(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint_folder(tiny_model_folder)
    token_ids = tuple(checkpoint.tokenizer.encode("A river ran through the town.").ids)

    def answers(layout: Layout) -> list[tuple[Answer, ...]]:
        monkeypatch.setattr(cpu_decoder, "layout_of", lambda _: layout)
        decoder = CpuDecoder(
            checkpoint, precision="int8", num_slots=2, context_length=64, threads=ThreadBudget(2)
        )
        piece = Piece(1, 0, token_ids[:-1], Measure(token_ids[1:], 3))
        try:
            return decoder.step([piece, Piece(0, 0, token_ids[:1])])
        finally:
            decoder.close()

    assert answers(Layout.PAIRS) == answers(Layout.QUADS)
