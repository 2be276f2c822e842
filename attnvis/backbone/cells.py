"""A trunk in, the place of its cells on the photo out: probed, and moved by what training did."""

import threading
from collections.abc import Mapping, Sequence

from torch import nn

from attnvis import geometry
from attnvis.backbone.calibration import SHIFTS, read_calibration
from attnvis.backbone.cutting import CutNetwork, SelectLayer, without_stderr
from attnvis.backbone.receptive_field import probe
from attnvis.errors import in_one_line
from attnvis.geometry import ReceptiveField, Shift
from attnvis.types import Placement, View

__all__ = ["PLACEMENTS", "CellGeometry", "check_placement", "known_shifts"]

PLACEMENTS = ("auto", "rf", "calibrated", "stretch")
WIDEST_SHIFT = float(SHIFTS[-1])  # strides; calibration tries none that is wider


class CellGeometry:
    """Where the cells of every layer are centred: probed once per layer and remainder of the input's size.

    trunk      images [B, 3, H, W] -> maps [B, D, h, w], layer by layer; any with the geometry of the network
               will do
    placement  one of PLACEMENTS; stretch probes nothing
    shifts     of every layer, added to what is probed; None: none
    """

    def __init__(self, trunk: nn.Module, placement: str, shifts: Sequence[Shift | None]) -> None:
        self.trunk, self.placement, self.shifts = trunk, placement, tuple(shifts)
        self.unplaced = ""  # why the cells could not be probed
        self.fields: dict[tuple[int, int, int], ReceptiveField | None] = {}
        self.probing = threading.Lock()  # once, however many threads ask

    def receptive_field(self, size: tuple[int, int], number: int = 0) -> ReceptiveField | None:
        """Where the cells of a layer lie on an input of (height, width) pixels; None: stretched over it."""
        if self.placement == "stretch":
            return None
        key = (number, size[0] % 64, size[1] % 64)
        with self.probing:
            if key not in self.fields:
                self.fields[key] = self.probed(size, number)
            return self.fields[key]

    def probed(self, size: tuple[int, int], number: int) -> ReceptiveField | None:
        try:
            with without_stderr():
                field = probe(SelectLayer(self.trunk, number), size)
        except (ValueError, RuntimeError, AssertionError) as error:
            self.unplaced = in_one_line(error, most=200)
            return None
        shift = self.shifts[number]
        if shift is None:
            return field
        if abs(shift.pixels) > WIDEST_SHIFT * max(field.stride) + 0.01:  # px, of rounding in a file
            raise ValueError(
                f"the shift of {shift.pixels:.4g} px that was calibrated is more than {WIDEST_SHIFT:g} "
                f"of the {max(field.stride):.4g} px between cells, which nothing measures; "
                "delete its file in calibrations/ and run attnvis calibrate again"
            )
        return geometry.shifted(field, shift)

    def on_photo(self, view: View, grid: tuple[int, int], size: tuple[int, int], number: int) -> Placement:
        """The grid of a layer on a photo of (height, width), of which the network was given `view`."""
        field = self.receptive_field(view.size, number) or geometry.stretch(view, grid)
        return geometry.place_grid(view, field, grid, size, self.source(number))

    def source(self, number: int) -> str:
        """How the place of a layer's cells is known, in a word or two, for every record."""
        if self.placement == "stretch" or self.unplaced:
            return "stretch"
        shift = self.shifts[number]
        return f"rf {shift.pixels:+.4g} px" if shift else "rf"

    def describe(self, side: int) -> str:
        """The place of every layer's cells on a square input, for the run's record."""
        layers = []
        for number, shift in enumerate(self.shifts):
            text = self.described(self.receptive_field((side, side), number))
            layers.append(f"{text}, {shift}" if shift else text)
        return f"{self.placement}: {'; '.join(layers)}"

    def described(self, field: ReceptiveField | None) -> str:
        if field is not None:
            return f"cell i at {field.offset[1]:.4g} + {field.stride[1]:.4g} i px of the input"
        reason = f", because the cells could not be probed ({self.unplaced})" if self.unplaced else ""
        return f"stretched over the input{reason}"


def check_placement(placement: str) -> None:
    """Raises ValueError for a word that is none of PLACEMENTS."""
    if placement not in PLACEMENTS:
        raise ValueError(
            f"unknown placement {placement!r}: auto (a measured shift where one is known, else rf), "
            "rf (the middle of the receptive field), calibrated (a measured shift) "
            "or stretch (the field's habit)"
        )


def known_shifts(
    network: CutNetwork, digest: str, placement: str, shipped: Mapping[str, Shift]
) -> tuple[Shift | None, ...]:
    """How far training moved the cells of each layer, as far as that is known and wanted.

    digest   of the weights
    shipped  node -> the shift that comes with them, unless `attnvis calibrate` stored another

    Raises ValueError where placement is calibrated and no shift is known.
    """
    if placement not in ("auto", "calibrated"):
        return tuple(None for _ in network.nodes)
    if digest == "random":
        if placement == "calibrated":
            raise ValueError(
                "random weights have no calibrated placement: nothing was learned; use placement=rf"
            )
        return tuple(None for _ in network.nodes)
    shifts = []
    for layer, node in zip(network.layers, network.nodes, strict=True):
        stored = read_calibration(digest, node)
        shift = stored.measured if stored else shipped.get(node)
        if shift is None and placement == "calibrated":
            raise ValueError(
                f"layer {layer} of {network.name} has not been calibrated with these weights; "
                f"run attnvis calibrate PHOTOS backbone={network.name} backbone.layer={layer} "
                "(and the same backbone.weights), or use placement=auto"
            )
        shifts.append(shift)
    return tuple(shifts)
