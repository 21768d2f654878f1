"""How few bytes do integers need? Adaptive range coding of rounded weights.

A matrix of symbols (a row for each filter, a column for each of its inputs) is coded in blocks of rows.
How large a symbol will be is predicted from what the decoder knows by then, too: the mean magnitude of
its row, sent first, times the magnitude of its column relative to others in the rows before. The
prediction chooses one of a few contexts. Each context counts the symbols that it has seen, across all
matrices of a file, and the counts are the probabilities for a range coder (Martin 1979; `constriction
<https://bamler-lab.github.io/constriction/>`_), so no table needs to be sent.

Layout of one coded matrix of R rows, all of it in one range-coder stream:

1. The class of each row, ``k = round(2 log2(mean |q| + 1/16))``, as the difference to that of the row
   before (-8 for the first), under one adaptive model for all matrices.
2. For each block of ``ceil(R / 16)`` rows: the expected magnitude of every symbol is ``m = M · (A + B) / 2``
   with ``M = rint(1024 · 2^(k/2)) / 1024`` and ``A = (S + p) / (T + p)``; S is the sum of ``|q|`` over the
   column's earlier rows, T that of M over the earlier rows, p = 4 times the mean of M; B is A with S
   averaged over the columns of the same input channel. For each context (the number of ``THRESHOLDS``
   that m reaches) in ascending order come its symbols, row by row. Where m reaches ``RAW_FROM · 2^i`` for
   i = 0…s-1, the lowest s bits are taken off: all high parts ``q >> s`` of a block come first, then its low
   bits, by s ascending, equally probable. A high part outside ±``LARGEST`` is coded as ±``LARGEST``; behind
   the block's low bits follow their excesses as 32 bits. Raw bits beyond 16 come as a second word each,
   behind the low words of all symbols of that s.
3. After each block, every coded symbol adds ``WEIGHT`` to its context's count. A context starts from a
   two-sided geometric distribution.

Only additions, multiplications, divisions and square roots of float64 are used, on values whose sums
are exact: every platform computes the same probabilities.
"""

from __future__ import annotations

import constriction
import numpy as np

from ..errors import ModelCompressionError

LARGEST = 40
LIMIT = 2**30
BLOCKS = 16
PRIOR_ROWS = 4
WEIGHT = 32
CLASSES = np.arange(-8, 61)
RAW_FROM = 8.0


def _half_octaves(exponents: np.ndarray) -> np.ndarray:
    """2^(k/2), the same on every platform: a power of two, times a correctly rounded square root."""
    return np.ldexp(np.where(exponents % 2, np.sqrt(2.0), 1.0), exponents // 2)


MAGNITUDES = np.rint(1024 * _half_octaves(CLASSES)) / 1024  # their sums are exact
THRESHOLDS = _half_octaves(np.arange(-10, 7))
RAW_THRESHOLDS = np.ldexp(RAW_FROM, np.arange(28))


class CodingError(ModelCompressionError, ValueError):
    """The bytes are no coded matrix of that shape, or the integers are too large."""


class Coder:
    """Codes matrices one after the other; encoder and decoder must see the same sequence of shapes."""

    def __init__(self) -> None:
        self._counts = np.array([_geometric(m) for m in (*THRESHOLDS / 1.19, RAW_FROM)])
        self._class_counts = np.rint(1024 * 0.6 ** np.abs(np.arange(-len(CLASSES), len(CLASSES) + 1.0))) + 1

    def encode(self, symbols: np.ndarray, group: int = 1) -> bytes:
        """(R, n) integers of magnitude below 2^30 → bytes.

        Args:
            group: how many neighbouring columns belong to one input channel (k · k of a convolution).

        Raises:
            CodingError: not a matrix of integers in range, or ``group`` does not divide n.
        """
        _check(symbols.shape, group)
        if not np.issubdtype(symbols.dtype, np.integer):
            raise CodingError(f"symbols must be integers, not {symbols.dtype}")
        symbols = symbols.astype(np.int64)
        if np.abs(symbols).max() >= LIMIT:
            raise CodingError(f"symbols must be smaller than 2^30 in magnitude, not {np.abs(symbols).max()}")
        sink = _Sink()
        self._run(sink, symbols, group)
        return sink.bytes()

    def decode(self, data: bytes, shape: tuple[int, int], group: int = 1) -> np.ndarray:
        """Bytes → (R, n) int64, what ``encode`` was given.

        Raises:
            CodingError: the bytes do not decode to a matrix of that shape.
        """
        _check(shape, group)
        source = _Source(data)
        symbols = np.zeros(shape, np.int64)
        self._run(source, symbols, group)
        source.finish()
        return symbols

    def _run(self, stream: _Sink | _Source | _Meter, symbols: np.ndarray, group: int) -> None:
        """Both directions: a sink reads ``symbols``, a source fills them in."""
        rows, columns = symbols.shape
        magnitude = MAGNITUDES[self._classes(stream, symbols)]
        prior = PRIOR_ROWS * magnitude.sum() / rows
        seen, expected = np.zeros(columns), 0.0
        step = -(-rows // BLOCKS)
        for start in range(0, rows, step):
            block = symbols[start : start + step]
            channel = np.repeat(seen.reshape(-1, group).sum(1) / group, group)
            relative = ((seen + prior) / (expected + prior) + (channel + prior) / (expected + prior)) / 2
            self._block(stream, block, magnitude[start : start + step, None] * relative)
            seen += np.abs(block).sum(0)
            expected += magnitude[start : start + step].sum()

    def _classes(self, stream: _Sink | _Source | _Meter, symbols: np.ndarray) -> np.ndarray:
        """(R,) index into ``CLASSES`` of each row."""
        mean = np.abs(symbols).mean(1)
        indices = np.rint(2 * np.log2(mean + 1 / 16)).astype(np.int64) - CLASSES[0]
        differences = np.diff(indices, prepend=0) + len(CLASSES)
        differences = stream.code(differences, self._class_counts)
        indices = np.cumsum(differences - len(CLASSES))
        if indices.min() < 0 or indices.max() >= len(CLASSES):
            raise CodingError("a row's class is out of range")
        np.add.at(self._class_counts, differences, 32)
        return indices

    def _block(self, stream: _Sink | _Source | _Meter, block: np.ndarray, expected: np.ndarray) -> None:
        contexts = np.searchsorted(THRESHOLDS, expected.ravel(), side="right").astype(np.int8)
        order = np.argsort(contexts, kind="stable")
        ends = np.cumsum(np.bincount(contexts, minlength=len(self._counts)))
        shifts = np.searchsorted(RAW_THRESHOLDS, expected.ravel(), side="right")[order]
        flat = block.ravel()[order]
        high = flat >> shifts
        coded = np.clip(high, -LARGEST, LARGEST) + LARGEST
        start = 0
        for context, end in enumerate(ends):
            if end > start:
                coded[start:end] = stream.code(coded[start:end], self._counts[context])
                counted = np.bincount(coded[start:end], minlength=2 * LARGEST + 1)
                self._counts[context] += WEIGHT * counted
            start = end
        low = flat & ((1 << shifts) - 1)
        for shift in np.unique(shifts[shifts > 0]):
            low[shifts == shift] = stream.raw(low[shifts == shift], int(shift))
        far = np.flatnonzero((coded == 0) | (coded == 2 * LARGEST))
        excess = np.abs(high[far]) - LARGEST
        excess = stream.raw(excess, 32)
        high = coded - LARGEST
        high[far] += np.where(high[far] > 0, excess, -excess)
        values = (high << shifts) + low
        if np.abs(values).max(initial=0) >= LIMIT:
            raise CodingError("a symbol is out of range")
        result = np.empty_like(values)
        result[order] = values
        block[:] = result.reshape(block.shape)


def information(row: np.ndarray) -> np.ndarray:
    """(n,) bits that each integer of a row takes at the start of a file, -log2 of its probability there.

    What tells the row's mean magnitude comes on top: a few bits a row.

    Args:
        row: (n,) integers of a mean magnitude below ``RAW_FROM``, all below ±``LARGEST``.

    Raises:
        CodingError: other integers.
    """
    coder, meter = Coder(), _Meter()
    _check((1, len(row)), 1)
    coder._run(meter, np.array(row, np.int64)[None], 1)
    return meter.bits[1]


class _Meter:
    """An encoder's end that only counts: what each symbol would take."""

    def __init__(self) -> None:
        self.bits: list[np.ndarray] = []

    def code(self, symbols: np.ndarray, counts: np.ndarray) -> np.ndarray:
        self.bits.append(-np.log2(counts[symbols] / counts.sum()))
        return symbols

    def raw(self, symbols: np.ndarray, bits: int) -> np.ndarray:
        if len(symbols):
            raise CodingError("the integers are too large to be counted one by one")
        return symbols


class _Sink:
    """The encoder's end: takes symbols, returns them as they are."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def code(self, symbols: np.ndarray, counts: np.ndarray) -> np.ndarray:
        self._coder.encode(symbols.astype(np.int32), _model(counts))
        return symbols

    def raw(self, symbols: np.ndarray, bits: int) -> np.ndarray:
        for shift in range(0, bits if len(symbols) else 0, 16):
            word = (symbols >> shift) & 0xFFFF
            self._coder.encode(word.astype(np.int32), _uniform(bits - shift))
        return symbols

    def bytes(self) -> bytes:
        return self._coder.get_compressed().astype("<u4").tobytes()


class _Source:
    """The decoder's end: ignores the symbols it is given except for their number."""

    def __init__(self, data: bytes) -> None:
        if len(data) % 4:
            raise CodingError(f"{len(data)} bytes are not a whole number of 32-bit words")
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def code(self, symbols: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return self._decode(_model(counts), len(symbols))

    def raw(self, symbols: np.ndarray, bits: int) -> np.ndarray:
        found = np.zeros_like(symbols)
        for shift in range(0, bits if len(symbols) else 0, 16):
            found |= self._decode(_uniform(bits - shift), len(symbols)) << shift
        return found

    def finish(self) -> None:
        if not self._coder.maybe_exhausted():
            raise CodingError("bytes are left over")

    def _decode(self, model: object, count: int) -> np.ndarray:
        try:
            return self._coder.decode(model, count).astype(np.int64)
        except (AssertionError, ValueError) as error:
            raise CodingError(f"the bytes do not decode: {error}") from None


def _model(counts: np.ndarray) -> object:
    return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)


def _uniform(bits: int) -> object:
    return constriction.stream.model.Uniform(2 ** min(bits, 16))


def _geometric(mean: float) -> np.ndarray:
    """(81,) starting counts of a two-sided geometric distribution whose magnitudes have that mean."""
    decay = (np.sqrt(1 + mean * mean) - 1) / mean
    powers = np.cumprod(np.full(LARGEST, decay))
    weights = np.concatenate([powers[::-1], [1.0], powers])
    return np.floor(4096 * weights * (1 - decay) / (1 + decay)) + 1


def _check(shape: tuple[int, ...], group: int) -> None:
    if len(shape) != 2 or min(shape) < 1:
        raise CodingError(f"symbols must be a matrix with at least one element, not of shape {shape}")
    if group < 1 or shape[1] % group:
        raise CodingError(f"{shape[1]} columns cannot be channels of {group}")
