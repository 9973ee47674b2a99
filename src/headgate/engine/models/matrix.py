"""Matrices cut into blocks that a processor's cache holds: the layout that multiplies fastest for few rows.

A product of a few rows with a big matrix is bound by reading the matrix once. BLAS libraries repack the whole matrix
first, which costs two or three readings more; only for small products do they not. So the matrix is stored as blocks
[inputs, 64 outputs], each contiguous, and a product is many small ones, in one call. Measured with OpenBLAS on AVX-512,
one thread: 2 to 16 rows take 0.3 to 0.5 of the time of the same product in one piece, one row and hundreds the same.
"""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

LANES = 64
"""Outputs per block."""
DEPTH = 1280
"""The most inputs per block, where the inputs can be divided so."""
SMALL = 1_000_000
"""Multiplications up to which OpenBLAS (with AVX-512) does not repack."""


def _repacks_always() -> bool:
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return not any("AVX512" in name or name == "X86_V4" for name in found)


ALWAYS_REPACKED = _repacks_always()
"""Without AVX-512 there is no path for small products: many rows then go together, to repack less often."""


class Matrix:
    """A linear layer without its bias. Calling it multiplies rows of inputs, [rows, inputs], to [rows, outputs]."""

    def __init__(self, outputs: int, inputs: int, pieces: Iterable[Floats]) -> None:
        """`pieces` follow each other downwards to make up [outputs, inputs], as model files hold it."""
        self.outputs = outputs
        self.inputs = inputs
        self.parts = _parts(inputs)
        self._count = -(-outputs // LANES)
        depth = inputs // self.parts
        # zeroed for the last block's unused outputs; the system gives zeroed memory as it is written
        self._blocks = np.zeros((self.parts, self._count, depth, LANES), dtype=np.float32)
        self._first = self._blocks[0]
        self._rows = max(1, SMALL // (depth * LANES)) if not ALWAYS_REPACKED else 256
        at = 0
        for piece in pieces:
            self._put(at, piece)
            at += len(piece)

    @property
    def nbytes(self) -> int:
        return self._blocks.nbytes

    def __call__(self, x: Floats) -> Floats:
        """A new array; its last axis is contiguous."""
        if len(x) == 1 and not ALWAYS_REPACKED:
            # a product with a vector is another path, slower than this one with two rows
            return self(np.concatenate((x, x)))[:1]
        rows, width = len(x), self._count * LANES
        if self.parts == 1:
            out = np.empty((rows, width), dtype=np.float32)
            self._multiply(x, self._first, out)
        else:
            partial = np.empty((self.parts, rows, width), dtype=np.float32)
            depth = self.inputs // self.parts
            for part, blocks in enumerate(self._blocks):
                self._multiply(x[:, part * depth : (part + 1) * depth], blocks, partial[part])
            out = np.add.reduce(partial, axis=0)
        return out if width == self.outputs else out[:, : self.outputs]

    def columns(self, outputs: npt.NDArray[np.intp]) -> Floats:
        """What single outputs are made with, [number, inputs]: a tied matrix's embeddings of tokens."""
        block, lane = np.divmod(outputs, LANES)
        found: Floats = self._blocks[:, block, :, lane].reshape(len(outputs), self.inputs)
        return found

    def _multiply(self, x: Floats, blocks: Floats, out: Floats) -> None:
        """In groups of as many rows as a small product may have; every block is read once, for all groups."""
        rows, count = len(x), len(blocks)
        groups = -(-rows // self._rows)
        if groups == 1:
            np.matmul(x, blocks, out=out.reshape(rows, count, LANES).transpose(1, 0, 2))
            return
        size = -(-rows // groups)
        even = rows // size * size
        shaped = x[:even].reshape(-1, size, x.shape[1])
        target = out[:even].reshape(-1, size, count, LANES).transpose(2, 0, 1, 3)
        np.matmul(shaped, blocks[:, None], out=target, order="C")
        if even < rows:
            np.matmul(x[even:], blocks, out=out[even:].reshape(rows - even, count, LANES).transpose(1, 0, 2))

    def _put(self, at: int, piece: Floats) -> None:
        depth = self.inputs // self.parts
        done = 0
        while done < len(piece):
            block, lane = divmod(at + done, LANES)
            taken = piece[done : done + LANES - lane]
            shaped = taken.reshape(len(taken), self.parts, depth)
            self._blocks[:, block, :, lane : lane + len(taken)] = shaped.transpose(1, 2, 0)
            done += len(taken)


def _parts(inputs: int) -> int:
    """Into how many equal parts inputs are cut, so that a block stays small enough for several rows."""
    fewest = -(-inputs // DEPTH)
    return next((parts for parts in range(fewest, 4 * fewest) if inputs % parts == 0), 1)


def shares(size: int, workers: int) -> list[tuple[int, int]]:
    """Ranges of whole blocks of `size` outputs, one for each worker, as even as can be; fewer where it is small."""
    units = math.ceil(size / LANES)
    workers = max(1, min(workers, units))
    borders = [min(size, units * index // workers * LANES) for index in range(workers + 1)]
    return [(borders[index], borders[index + 1]) for index in range(workers)]
