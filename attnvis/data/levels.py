"""Numbers of a file, of any depth, in; levels of 8 bits out."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from attnvis.types import PhotoError

__all__ = ["Levels"]


@dataclass(frozen=True)
class Levels:
    """Which of a file's numbers become black and white in 8 bits, and what is to be said of that."""

    black: float
    white: float
    note: str

    @classmethod
    def of(
        cls, colours: np.ndarray, bits: int, depth: int | str, declared: tuple[float, float] | None = None
    ) -> "Levels":
        """Of samples [height, width, channels] of so many bits, by the setting `depth`.

        declared: the range that the file itself gives.  Raises PhotoError for numbers beyond the range.
        """
        low, high = colours.min().item(), colours.max().item()
        is_float = np.issubdtype(colours.dtype, np.floating)
        if not np.isfinite([low, high]).all():
            raise PhotoError("holds pixels that are no numbers (NaN or infinite); replace them")
        if bits <= 8:
            return cls(0.0, 2.0**bits - 1, "")
        if depth == "used" and high > low:
            return cls(float(low), float(high), f"levels stretched: {low:g} is black, {high:g} white")
        if declared:
            black, white = declared
            note = f"levels as the file says: {black:g} is black, {white:g} white"
        elif is_float:
            black, white, note = 0.0, 1.0, "floating point: 0 is black, 1 white"
        elif isinstance(depth, int) and depth < bits:
            black, white, note = 0.0, 2.0**depth - 1, f"{depth} of {bits} bits: {2**depth - 1} is white"
        else:
            used = int(high).bit_length()
            note = f"{bits} bits rounded to 8"
            if 0 < used <= bits - 2:
                note = f"only {used} of {bits} bits used, so it is dark: preprocess.depth={used} brightens it"
            return cls(0.0, 2.0**bits - 1, note)
        if low < black or high > white:
            raise PhotoError(
                f"holds numbers from {low:g} to {high:g}, beyond [{black:g}, {white:g}]; "
                "preprocess.depth=used makes the smallest black and the largest white"
            )
        return cls(black, white, note)

    def to_unit(self, samples: np.ndarray) -> np.ndarray:
        """In [0, 1]."""
        exact = np.float32 if samples.dtype.itemsize <= 2 else np.float64
        numbers: np.ndarray = samples.astype(exact)
        return np.clip((numbers - exact(self.black)) / exact(self.white - self.black), 0, 1)

    def to_eight(self, samples: np.ndarray) -> UInt8[np.ndarray, "..."]:
        if samples.dtype == np.uint16:
            table = np.rint(255 * self.to_unit(np.arange(65536, dtype=np.uint16))).astype(np.uint8)
            return table[samples]
        return np.rint(255 * self.to_unit(samples)).astype(np.uint8)
