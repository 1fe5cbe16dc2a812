"""Products of int8 matrices on the tile unit of recent server processors (AMX), where there is one.

A 16-bit activation is 256 * high + low, so two products of bytes, high (signed) and low (unsigned),
give the very integers of tile.py: a text does not depend on which of the two computed it. Twice as
fast at thirty rows. Linux gives a process these registers when it asks for them.
"""

import ctypes
import platform
import sys
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stentor.engine.cpu.tile import (
    FEATURES,
    FLOAT,
    INT8,
    INT32,
    INT64,
    LANES,
    broadcast,
    call,
    emit_prefetch,
)

TILE_ROWS = 16
ROWS_AT_A_TIME = 2 * TILE_ROWS  # two tiles of rows share the weights
STEP = 64  # inputs that one tile instruction sums up
STEP_BYTES = STEP * LANES  # of the weights of a block
WEIGHTS, INPUTS = 4, 5  # tile registers; 0 to 3 hold sums: high, low, high, low
ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18  # of Linux on x86-64

# A tile configuration: palette 1; eight registers of 16 rows of 64 bytes.
CONFIGURATION = bytes([1] + [0] * 15 + [64, 0] * 8 + [0] * 16 + [TILE_ROWS] * 8 + [0] * 8)


def is_usable() -> bool:
    """Ask the system for the tile registers; tell whether this process may use them."""
    has_tiles = FEATURES.get("amx-tile") and FEATURES.get("amx-int8") and FEATURES.get("avx512bw")
    if not has_tiles or sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    system = ctypes.CDLL(None)
    return bool(system.syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0)


HAS_AMX = is_usable()


@intrinsic
def configure(_typing: Any) -> Any:
    """Give this thread its tile registers; `release` them afterwards."""

    def emit(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        kind = ir.ArrayType(INT8, len(CONFIGURATION))
        place = cgutils.alloca_once_value(builder, ir.Constant(kind, bytearray(CONFIGURATION)))
        call(builder, "llvm.x86.ldtilecfg", ir.VoidType(), _bytes(builder, place))
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def release(_typing: Any) -> Any:
    """Give the tile registers back, so that the system need not keep them for this thread."""

    def emit(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        call(builder, "llvm.x86.tilerelease", ir.VoidType())
        return context.get_dummy_value()

    return types.void(), emit


def make_amx_tile(num_tiles: int) -> Callable[..., None]:
    """Return an intrinsic: up to `num_tiles` * 16 rows times one block of LANES outputs.

    Its arguments: packed weights, offset of the block; activations [rows, high bytes then low
    bytes], offset, bytes from row to row; steps of STEP inputs; scales of the outputs, offset;
    scales of the rows, offset; outputs, offset, elements from row to row; rows to write; 1 to add
    to what the outputs hold.
    """

    @intrinsic
    def tile(
        _typing: Any,
        weights: Any,
        weights_offset: Any,
        inputs: Any,
        inputs_offset: Any,
        inputs_stride: Any,
        num_steps: Any,
        scales: Any,
        scales_offset: Any,
        row_scales: Any,
        row_scales_offset: Any,
        outputs: Any,
        outputs_offset: Any,
        outputs_stride: Any,
        count: Any,
        is_added: Any,
    ) -> Any:
        place = types.int64
        signature = types.void(
            weights, place, inputs, place, place, place, scales, place, row_scales, place,
            outputs, place, place, place, place,
        )  # fmt: skip

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def start(place: int) -> Any:
                kind = signature.args[place]
                array = context.make_array(kind)(context, builder, arguments[place])
                return builder.gep(array.data, [arguments[place + 1]])

            sums = _sums(
                builder, num_tiles, _bytes(builder, start(0)), _bytes(builder, start(2)),
                arguments[4], arguments[5],
            )  # fmt: skip
            _store(
                builder, sums, start(6), start(8), start(10),
                arguments[12], arguments[13], arguments[14],
            )  # fmt: skip
            return context.get_dummy_value()

        return signature, emit

    return tile


def _sums(builder: Any, num_tiles: int, weights: Any, inputs: Any, stride: Any, steps: Any) -> Any:
    """Emit the loop over the inputs; return where the sums are, int32 [tiles, 2, 16, LANES]."""
    nothing, row_bytes = ir.VoidType(), _number(LANES * 4)
    low_bytes = builder.lshr(stride, _number(1))
    for register in range(2 * num_tiles):
        call(builder, "llvm.x86.tilezero", nothing, _register(register))
    with cgutils.for_range(builder, steps) as loop:
        block = builder.gep(weights, [builder.mul(loop.index, _number(STEP_BYTES))])
        call(builder, "llvm.x86.tileloadd64", nothing, _register(WEIGHTS), block, row_bytes)
        next_block = builder.gep(block, [builder.mul(steps, _number(STEP_BYTES))])
        for line in range(0, STEP_BYTES, 64):
            emit_prefetch(builder, builder.gep(next_block, [_number(line)]))
        first = builder.mul(loop.index, _number(STEP))
        for tile in range(num_tiles):
            high = builder.add(first, builder.mul(stride, _number(tile * TILE_ROWS)))
            places = (high, builder.add(high, low_bytes))
            for half, (place, product) in enumerate(
                zip(places, ("tdpbssd", "tdpbusd"), strict=True)
            ):
                read, sums = _register(INPUTS + half), _register(2 * tile + half)
                at = builder.gep(inputs, [place])
                call(builder, "llvm.x86.tileloadd64", nothing, read, at, stride)
                call(builder, f"llvm.x86.{product}", nothing, sums, read, _register(WEIGHTS))
    size = TILE_ROWS * LANES
    room = cgutils.alloca_once(builder, INT32, size=_number(2 * num_tiles * size))
    for register in range(2 * num_tiles):
        place = _bytes(builder, builder.gep(room, [_number(register * size)]))
        call(builder, "llvm.x86.tilestored64", nothing, _register(register), place, row_bytes)
    return room


def _store(
    builder: Any, sums: Any, scales: Any, row_scales: Any, outputs: Any,
    stride: Any, count: Any, is_added: Any,
) -> None:  # fmt: skip
    """Emit 256 * high + low, times the scales, into the outputs of `count` rows."""
    integers, floats = ir.VectorType(INT32, LANES), ir.VectorType(FLOAT, LANES)
    scale = builder.load(builder.bitcast(scales, floats.as_pointer()), align=4)
    wanted = builder.icmp_signed("!=", is_added, _number(0))
    with cgutils.for_range(builder, count) as loop:
        # Row r of tile t: its high sums are in row r of half 2t, its low ones 16 rows further on.
        tile = builder.and_(loop.index, _number(-TILE_ROWS))
        place = builder.mul(builder.add(tile, loop.index), _number(LANES))
        parts = [
            builder.load(builder.bitcast(builder.gep(sums, [at]), integers.as_pointer()), align=4)
            for at in (place, builder.add(place, _number(TILE_ROWS * LANES)))
        ]
        total = builder.add(builder.shl(parts[0], ir.Constant(integers, [8] * LANES)), parts[1])
        row_scale = broadcast(builder, builder.load(builder.gep(row_scales, [loop.index])))
        value = builder.fmul(builder.fmul(builder.sitofp(total, floats), scale), row_scale)
        target = builder.gep(outputs, [builder.mul(stride, loop.index)])
        target = builder.bitcast(target, floats.as_pointer())
        added = builder.fadd(value, builder.load(target, align=4))
        builder.store(builder.select(wanted, added, value), target, align=4)


def _bytes(builder: Any, pointer: Any) -> Any:
    return builder.bitcast(pointer, INT8.as_pointer())


def _register(number: int) -> Any:
    return ir.Constant(INT8, number)


def _number(value: int) -> Any:
    return ir.Constant(INT64, value)
