"""The innermost loop of attention: a small block of a matrix product, in LLVM's instructions.

A tile is ROWS rows times BLOCKS blocks of LANES columns. Each lane of a vector register is one
output, summed over the steps in their order. Knows no attention.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stentor.engine.cpu.tile import FLOAT, HAS_AVX512, INT64, LANES, broadcast, call

# As many sums as fit into the registers beside columns and one input. Measured on AVX-512, on one
# core: 143 GFLOP/s, as fast as a large matrix product.
ROWS, BLOCKS = (8, 2) if HAS_AVX512 else (4, 1)
VECTOR = ir.VectorType(FLOAT, LANES)
# Numba's and llvmlite's values have no types of their own.
Compiler = Any


def make_tile(num_rows: int, num_blocks: int) -> Callable[..., None]:
    """Return an intrinsic: outputs[r, c] = sum over s of inputs[r, s] * columns[s, c].

    Its arguments: columns, offset, elements from step to step; inputs, offset, elements from row to
    row, elements from step to step; steps; outputs, offset, elements from row to row; 1 to add to
    what the outputs hold, 0 to replace it. All arrays are flat and fp32; offsets and distances are
    in elements.
    """

    def tile(
        _typing: Compiler,
        columns: Compiler,
        columns_offset: Compiler,
        columns_step: Compiler,
        inputs: Compiler,
        inputs_offset: Compiler,
        inputs_row: Compiler,
        inputs_step: Compiler,
        num_steps: Compiler,
        outputs: Compiler,
        outputs_offset: Compiler,
        outputs_row: Compiler,
        is_added: Compiler,
    ) -> Compiler:
        place = types.int64
        signature = types.void(
            columns, place, place, inputs, place, place, place, place, outputs, place, place, place
        )
        return signature, _Tile(num_rows, num_blocks).emit_call

    result: Callable[..., None] = intrinsic(tile)
    return result


class _Tile:
    """Writes one tile as a function of its own, so that it is compiled once."""

    def __init__(self, num_rows: int, num_blocks: int) -> None:
        self.rows, self.blocks = range(num_rows), range(num_blocks)
        self.name = f"stentor_training_tile_{num_rows}x{num_blocks}"

    def emit_call(
        self, context: Compiler, builder: Compiler, signature: Compiler, arguments: Compiler
    ) -> Compiler:
        """Call the tile; see make_tile for the arguments."""

        def start(place: int) -> Compiler:
            array = context.make_array(signature.args[place])(context, builder, arguments[place])
            return builder.gep(array.data, [arguments[place + 1]])

        given = [start(0), arguments[2], start(3), *arguments[5:8], start(8), *arguments[10:]]
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in given])
        function = cgutils.get_or_insert_function(builder.module, kind, self.name)
        if function.is_declaration:
            function.linkage = "linkonce_odr"
            function.attributes.add("noinline")
            self._define(ir.IRBuilder(function.append_basic_block()), function.args)
        builder.call(function, given)
        return context.get_dummy_value()

    def _define(self, builder: Compiler, arguments: Compiler) -> None:
        """Emit the loop over the steps and the store of the outputs."""
        *given, outputs, outputs_row, is_added = arguments
        sums = self._loop(builder, *given)
        wanted = builder.icmp_signed("!=", is_added, ir.Constant(INT64, 0))
        with builder.if_else(wanted) as (then, otherwise):
            for branch, is_sum in ((then, True), (otherwise, False)):
                with branch:
                    self._store(builder, sums, outputs, outputs_row, is_sum)
        builder.ret_void()

    def _store(
        self, builder: Compiler, sums: Compiler, outputs: Compiler, stride: Compiler, is_sum: bool
    ) -> None:
        for row in self.rows:
            start = builder.gep(outputs, [builder.mul(stride, ir.Constant(INT64, row))])
            for block in self.blocks:
                place = builder.gep(start, [ir.Constant(INT64, block * LANES)])
                place = builder.bitcast(place, VECTOR.as_pointer())
                value = builder.load(sums[row][block])
                if is_sum:
                    value = builder.fadd(value, builder.load(place, align=4))
                builder.store(value, place, align=4)

    def _loop(
        self,
        builder: Compiler,
        columns: Compiler,
        columns_step: Compiler,
        inputs: Compiler,
        inputs_row: Compiler,
        inputs_step: Compiler,
        num_steps: Compiler,
    ) -> Compiler:
        """Emit the sums; return where each row's and block's vector of them is."""
        zero = ir.Constant(VECTOR, None)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in self.blocks] for _ in self.rows]
        rows = [
            builder.gep(inputs, [builder.mul(inputs_row, ir.Constant(INT64, row))])
            for row in self.rows
        ]
        with cgutils.for_range(builder, num_steps) as loop:
            start = builder.gep(columns, [builder.mul(loop.index, columns_step)])
            step = builder.mul(loop.index, inputs_step)
            loaded = []
            for block in self.blocks:
                place = builder.gep(start, [ir.Constant(INT64, block * LANES)])
                loaded.append(builder.load(builder.bitcast(place, VECTOR.as_pointer()), align=4))
            for row, row_sums in zip(rows, sums, strict=True):
                value = broadcast(builder, builder.load(builder.gep(row, [step])))
                for place, weight in zip(row_sums, loaded, strict=True):
                    old = builder.load(place)
                    new = call(builder, "llvm.fmuladd.v16f32", VECTOR, value, weight, old)
                    builder.store(new, place)
        return sums
