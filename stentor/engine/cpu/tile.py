"""The innermost loop of the CPU decoder, written in LLVM's instructions through Numba.

A tile is a few rows of activations times a few blocks of LANES columns of a packed matrix (see
packing.py): one lane of a vector register is one output, summed over the inputs in their order. So
no output depends on how many rows or columns a tile has, on its place, or on the thread.

int8 weights meet 16-bit activations: products are summed in pairs into 32 bits, exactly, by the
instruction `pmaddwd` (with VNNI LLVM fuses the addition). Half the arithmetic rate of 8-bit
activations, and the better model: see README, "Figures".
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # outputs of one block: a register of AVX-512, two of AVX2, four of NEON
INT8, INT16, INT32, INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOAT = ir.FloatType()
FEATURES = llvmlite.binding.get_host_cpu_features()
HAS_AVX512 = bool(FEATURES.get("avx512bw"))
HAS_AVX2 = bool(FEATURES.get("avx2"))

# rows -> blocks: as many accumulators as fit into the registers beside weights and activations
# (32 with AVX-512 and NEON, 16 of half the width with AVX2). Measured on AVX-512: 10 x 2 and 5 x 4
# reach 157 and 155 billion multiply-adds per second and core, 6 x 4 spills and reaches 104.
TILES = (
    {1: 4, 2: 2, 3: 2, 4: 1, 5: 1, 6: 1, 8: 1, 10: 1}
    if HAS_AVX2 and not HAS_AVX512
    else {1: 8, 2: 4, 3: 4, 4: 4, 5: 4, 6: 2, 8: 2, 10: 2}
)
# Matrices are padded to whole tiles of any of these.
BLOCK_MULTIPLE = max(TILES.values())
MAX_TILE_ROWS = 6 if HAS_AVX2 and not HAS_AVX512 else 10


def make_tile(num_rows: int, num_blocks: int) -> Callable[..., None]:
    """Return an intrinsic that computes `num_rows` x `num_blocks` * LANES outputs.

    Its arguments: packed weights, offset of the first block, elements from block to block;
    activations, offset, elements from row to row; steps (pairs of inputs for int8, inputs for
    fp32); scales of the outputs, offset; scales of the rows, offset; outputs (fp32), offset,
    elements from row to row; 1 to add to what the outputs hold, 0 to replace it. Offsets and
    distances are in elements. fp32 ignores the scales.
    """

    @intrinsic
    def tile(
        _typing: Any,
        weights: Any,
        weights_offset: Any,
        block_stride: Any,
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
        is_added: Any,
    ) -> Any:
        place = types.int64
        signature = types.void(
            weights, place, place, inputs, place, place, place, scales, place, row_scales, place,
            outputs, place, place, place,
        )  # fmt: skip
        tile = _Tile(num_rows, num_blocks, weights.dtype == types.int8)
        return signature, tile.emit_call

    return tile


class _Tile:
    """Writes one tile as a function of its own.

    Inlined at each of its uses it would take the compiler half a minute instead of seconds; a call
    costs some 10 ns of about a microsecond.
    """

    def __init__(self, num_rows: int, num_blocks: int, is_int8: bool) -> None:
        self.rows, self.blocks = range(num_rows), range(num_blocks)
        self.is_int8 = is_int8
        self.width = 2 * LANES if is_int8 else LANES  # weights of a block and step
        self.sums = ir.VectorType(INT32 if is_int8 else FLOAT, LANES)
        self.floats = ir.VectorType(FLOAT, LANES)
        self.name = f"stentor_tile_{'int8' if is_int8 else 'fp32'}_{num_rows}x{num_blocks}"

    def emit_call(self, context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        """Call the tile; see make_tile for the arguments."""

        def start(place: int) -> Any:
            array = context.make_array(signature.args[place])(context, builder, arguments[place])
            return builder.gep(array.data, [arguments[place + 1]])

        _, _, block_stride, _, _, inputs_stride, num_steps, *_, outputs_stride, is_added = arguments
        weights, inputs, scales, row_scales, outputs = map(start, (0, 3, 7, 9, 11))
        given = [weights, block_stride, inputs, inputs_stride, num_steps]
        given += [scales, row_scales, outputs, outputs_stride, is_added]
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in given])
        function = cgutils.get_or_insert_function(builder.module, kind, self.name)
        if function.is_declaration:
            function.linkage = "linkonce_odr"
            function.attributes.add("noinline")
            self._define(ir.IRBuilder(function.append_basic_block()), function.args)
        builder.call(function, given)
        return context.get_dummy_value()

    def _define(self, builder: Any, arguments: Any) -> None:
        """Emit the loop over the inputs and the store of the outputs."""
        weights, block_stride, inputs, inputs_stride, num_steps = arguments[:5]
        scales, row_scales, outputs, outputs_stride, is_added = arguments[5:]
        blocks = [_advance(builder, weights, block_stride, block) for block in self.blocks]
        rows = [_advance(builder, inputs, inputs_stride, row) for row in self.rows]
        sums = self._loop(builder, blocks, rows, num_steps, block_stride)
        wanted = builder.icmp_signed("!=", is_added, ir.Constant(INT64, 0))
        for block in self.blocks:
            place = ir.Constant(INT64, block * LANES)
            scale = self._vector(builder, builder.gep(scales, [place])) if self.is_int8 else None
            for row in self.rows:
                value = builder.load(sums[row][block])
                if scale is not None:
                    row_scale = builder.load(builder.gep(row_scales, [ir.Constant(INT64, row)]))
                    value = builder.fmul(builder.sitofp(value, self.floats), scale)
                    value = builder.fmul(value, broadcast(builder, row_scale))
                target = builder.gep(_advance(builder, outputs, outputs_stride, row), [place])
                target = builder.bitcast(target, self.floats.as_pointer())
                old = builder.load(target, align=4)
                value = builder.select(wanted, builder.fadd(value, old), value)
                builder.store(value, target, align=4)
        builder.ret_void()

    def _loop(
        self, builder: Any, blocks: list[Any], rows: list[Any], num_steps: Any, block_stride: Any
    ) -> Any:
        """Emit the sums; return where each row's and block's vector of them is."""
        zero = ir.Constant(self.sums, None)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in blocks] for _ in rows]
        with cgutils.for_range(builder, num_steps) as loop:
            weights = [self._weights(builder, block, loop.index) for block in blocks]
            for block in blocks:
                self._prefetch(builder, block, loop.index, block_stride)
            for row, row_sums in zip(rows, sums, strict=True):
                value = self._input(builder, row, loop.index)
                for place, weight in zip(row_sums, weights, strict=True):
                    old = builder.load(place)
                    if self.is_int8:
                        new = builder.add(old, _sum_of_pairs(builder, value, weight))
                    else:
                        new = call(builder, "llvm.fmuladd.v16f32", self.floats, value, weight, old)
                    builder.store(new, place)
        return sums

    def _weights(self, builder: Any, block: Any, step: Any) -> Any:
        """Load the weights of one step: LANES pairs widened to 16 bits, or LANES floats."""
        start = builder.gep(block, [builder.mul(step, ir.Constant(INT64, self.width))])
        if not self.is_int8:
            return self._vector(builder, start)
        stored = builder.bitcast(start, ir.VectorType(INT8, self.width).as_pointer())
        return builder.sext(builder.load(stored, align=1), ir.VectorType(INT16, self.width))

    def _prefetch(self, builder: Any, block: Any, step: Any, block_stride: Any) -> None:
        """Ask for the weights that the next tile needs at this step: a tenth faster at 30 rows.

        Beyond the last block nothing happens: a prefetch never fails.
        """
        ahead = builder.mul(block_stride, ir.Constant(INT64, len(self.blocks)))
        ahead = builder.add(ahead, builder.mul(step, ir.Constant(INT64, self.width)))
        emit_prefetch(builder, builder.gep(block, [ahead]))

    def _input(self, builder: Any, row: Any, step: Any) -> Any:
        """Load one pair of inputs, or one input, into all lanes."""
        if not self.is_int8:
            return broadcast(builder, builder.load(builder.gep(row, [step])))
        start = builder.gep(row, [builder.mul(step, ir.Constant(INT64, 2))])
        pair = builder.load(builder.bitcast(start, INT32.as_pointer()), align=2)
        return builder.bitcast(broadcast(builder, pair), ir.VectorType(INT16, 2 * LANES))

    def _vector(self, builder: Any, start: Any) -> Any:
        return builder.load(builder.bitcast(start, self.floats.as_pointer()), align=4)


@intrinsic
def prefetch(_typing: Any, array: Any, offset: Any) -> Any:
    """Ask for the cache line of an element, counted from the first; beyond the end is harmless."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        emit_prefetch(builder, builder.gep(data, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(array, types.int64), emit


def emit_prefetch(builder: Any, pointer: Any) -> None:
    """Emit a request for the cache line of a pointer."""
    into_second_level = (0, 2, 1)  # to read; second-level cache; data
    numbers = [ir.Constant(INT32, number) for number in into_second_level]
    place = builder.bitcast(pointer, INT8.as_pointer())
    call(builder, "llvm.prefetch.p0", ir.VoidType(), place, *numbers)


def _advance(builder: Any, pointer: Any, stride: Any, count: int) -> Any:
    return builder.gep(pointer, [builder.mul(stride, ir.Constant(INT64, count))])


def broadcast(builder: Any, value: Any) -> Any:
    """Return a vector with the value in all LANES."""
    vector = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(vector, value, ir.Constant(INT32, 0))
    return builder.shuffle_vector(first, vector, _indices(range(0, 1), LANES))


def _indices(places: range, repeat: int = 1) -> Any:
    chosen = [*places] * repeat
    return ir.Constant(ir.VectorType(INT32, len(chosen)), chosen)


def _sum_of_pairs(builder: Any, first: Any, second: Any) -> Any:
    """Return a[2i] * b[2i] + a[2i + 1] * b[2i + 1] in 32 bits, of 16-bit vectors a and b."""
    if HAS_AVX512:
        name, result = "llvm.x86.avx512.pmaddw.d.512", ir.VectorType(INT32, LANES)
        return call(builder, name, result, first, second)
    if HAS_AVX2:
        halves = [
            [builder.shuffle_vector(vector, vector, _indices(half)) for vector in (first, second)]
            for half in (range(LANES), range(LANES, 2 * LANES))
        ]
        name, result = "llvm.x86.avx2.pmadd.wd", ir.VectorType(INT32, LANES // 2)
        low, high = (call(builder, name, result, *half) for half in halves)
        return builder.shuffle_vector(low, high, _indices(range(LANES)))
    products = [
        builder.mul(*(_every_other(builder, vector, start) for vector in (first, second)))
        for start in (0, 1)
    ]
    return builder.add(*products)


def call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Emit a call of an instruction that LLVM knows by name."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _every_other(builder: Any, vector: Any, start: int) -> Any:
    half = builder.shuffle_vector(vector, vector, _indices(range(start, 2 * LANES, 2)))
    return builder.sext(half, ir.VectorType(INT32, LANES))
