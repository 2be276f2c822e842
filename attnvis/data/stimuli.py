"""Seeds in, pictures with known truth out: pop-out arrays (one item differs) and scenes (one named object on a texture).

Every picture is uint8 RGB [size, size, 3]; masks hold every pixel that an item touches, so that all others are background alone.
"""

from colorsys import hsv_to_rgb

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

__all__ = ["COLOURS", "FILLS", "KINDS", "SHAPES", "pop_out", "scene"]

KINDS = ("colour", "orientation", "size")
GRID = 7  # items per row and per column
FINE = 4  # everything is drawn so many times larger, then averaged

Picture = UInt8[np.ndarray, "size size 3"]
Mask = Bool[np.ndarray, "size size"]
Contours = list[
    Float[np.ndarray, "_ 2"]
]  # corners (x, y); what an even number of contours surrounds is a hole


def pop_out(kind: str, level: float, seed: int, size: int = 225) -> tuple[Picture, Mask, Mask]:
    """(picture, target, distractors): 7 x 7 equal items on grey, of which one differs by `level` (after P3, Kotseruba et al. 2019).

    colour: discs of one saturation and value, hues `level` degrees apart; orientation: black or white bars, the target turned by
    `level` degrees; size: black or white discs, the target's diameter `level` times the others'.  One seed puts the items at the same
    places whatever the level.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no pop-out by {kind!r}; choose {', '.join(KINDS)}")
    if kind == "size" and not 0.2 <= level <= 2.5:
        raise ValueError(
            f"a target {level:g} times as large as the others does not fit its place; give a size from 0.2 to 2.5"
        )
    rng, cell = np.random.default_rng(seed), size / GRID
    grey, hue, angle, ink = (
        rng.uniform(0.35, 0.65),
        rng.uniform(0, 360),
        rng.uniform(0, 180),
        float(rng.integers(2)),
    )
    middles = (
        np.stack(np.meshgrid(*2 * [np.arange(GRID)]), -1).reshape(-1, 2)
        + 0.5
        + rng.uniform(-0.1, 0.1, (GRID**2, 2))
    ) * cell
    target, reach = int(rng.integers(GRID**2)), 0.3 * cell
    usual, other, inks = disc(), disc(), [(ink, ink, ink)] * 2
    if kind == "colour":
        inks = [hsv_to_rgb(h % 360 / 360, 0.9, 0.9) for h in (hue, hue + level)]
    elif kind == "orientation":
        usual, other = (turned(block(1.0, 0.28), a) for a in (angle, angle + level))
    else:
        reach = min(0.3, 0.4 / level) * cell  # the larger of the two sizes keeps clear of its neighbours
        other = [level * disc()[0]]
    rest = [
        reach * contour + middle
        for number, middle in enumerate(middles)
        for contour in usual
        if number != target
    ]
    odd = [reach * contour + middles[target] for contour in other]
    picture, masks = np.full((size, size, 3), grey), []
    for contours, colour in ((odd, inks[1]), (rest, inks[0])):
        share = coverage(contours, size)[..., None]
        picture = picture * (1 - share) + share * np.array(colour)
        masks.append(share[..., 0] > 0)
    return eight_bit(picture), masks[0], masks[1]


def scene(seed: int, size: int = 225) -> tuple[Picture, Mask, dict[str, str]]:
    """(picture, mask, labels): one object anywhere, whole, of random shape, colour and fill, on a background of dull colours.

    In some channel the object's own colour is at least .24 away from any background: its channels span .72 or more, those of a
    background .24 or less.
    """
    rng = np.random.default_rng(seed)
    picture = background(rng, size)
    shape, colour, fill = (str(rng.choice(list(names))) for names in (SHAPES, COLOURS, FILLS))
    reach = rng.uniform(0.14, 0.28) * size
    middle = rng.uniform(reach + 1, size - reach - 1, 2)
    turn, grain = rng.uniform(0, 360), rng.uniform(0.35, 0.5) * reach
    bright = np.array(
        hsv_to_rgb((COLOURS[colour] + rng.uniform(-6, 6)) % 360 / 360, *rng.uniform(0.85, 1, 2))
    )
    across, down = ((np.arange(FINE * size) + 0.5) / FINE - at for at in middle)
    down, cosine, sine = down[:, None], np.cos(np.radians(turn)), np.sin(np.radians(turn))
    lit = FILLS[fill]((across * cosine + down * sine) / grain, (down * cosine - across * sine) / grain)
    lit = shrunk(lit.astype(np.float32), size)[..., None]
    share = coverage([reach * contour + middle for contour in turned(SHAPES[shape], turn)], size)[..., None]
    own = bright * (0.35 + 0.65 * lit)  # the fill is drawn in the colour and in a shade of it
    return (
        eight_bit(picture * (1 - share) + own * share),
        share[..., 0] > 0,
        {"shape": shape, "colour": colour, "fill": fill},
    )


# ------------------------------------------------------------------------------------------------ shapes, within the unit circle


def polygon(radii: list[float]) -> Float[np.ndarray, "_ 2"]:
    """Corners at equal angles about the middle, the first on top."""
    angles = np.radians(-90 + 360 * np.arange(len(radii)) / len(radii))
    return np.array(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def disc(radius: float = 1.0) -> Contours:
    return [polygon([radius] * 60)]


def block(half_width: float, half_height: float) -> Contours:
    return [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (half_width, half_height)]


def turned(contours: Contours, degrees: float) -> Contours:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return [contour @ np.array([[cosine, sine], [-sine, cosine]]) for contour in contours]


ARM, HALF = np.array([(-0.3, -0.95), (0.3, -0.95), (0.3, -0.3)]), polygon([1.0] * 60)[:31]
SHAPES: dict[str, Contours] = {
    "disc": disc(),
    "ring": disc() + disc(0.55),
    "square": block(0.7, 0.7),
    "bar": block(0.95, 0.3),
    "triangle": [polygon([1.0] * 3)],
    "star": [polygon([1.0, 0.4] * 5)],
    "cross": [np.concatenate([arm for quarter in range(4) for arm in turned([ARM], 90.0 * quarter)])],
    "moon": [np.concatenate([HALF, HALF[-2:0:-1] * (0.35, 1)])],
}
COLOURS = {
    "red": 0,
    "orange": 30,
    "yellow": 60,
    "green": 120,
    "cyan": 180,
    "blue": 225,
    "purple": 275,
    "pink": 325,
}  # hue in degrees
FILLS = {  # where it is bright; u, v: the object's own coordinates, one unit apart from repeat to repeat
    "plain": lambda u, v: u == u,
    "stripes": lambda u, v: u % 1 < 0.5,
    "checks": lambda u, v: (u % 1 < 0.5) ^ (v % 1 < 0.5),
    "dots": lambda u, v: (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 > 0.1,
}


# ------------------------------------------------------------------------------------------------ backgrounds


def background(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size 3"]:
    """One of five textures between two dull colours, in 0 ... 1."""
    texture = (grating, clouds, leaves, patches, weave)[rng.integers(5)]
    dark, light = rng.uniform([[0.14], [0.5]], [[0.36], [0.74]]) + rng.uniform(-0.12, 0.12, (2, 3))
    level = texture(rng, size)[..., None]
    return dark * (1 - level) + light * level


def grating(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size"]:
    """Waves of one direction, 3 to 15 over the picture."""
    angle, waves = rng.uniform(0, np.pi), rng.uniform(3, 15)
    along = np.arange(size) * np.cos(angle) + np.arange(size)[:, None] * np.sin(angle)
    return 0.5 + 0.5 * np.sin(2 * np.pi * (waves * along / size + rng.uniform()))


def weave(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size"]:
    """Two gratings across one another."""
    return grating(rng, size) * grating(rng, size)


def clouds(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size"]:
    """Noise with an amplitude of 1 / frequency ** .8 to 1.6, as photos have."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf  # the mean
    noise = np.fft.irfft2(
        np.fft.rfft2(rng.normal(size=(size, size))) / frequency ** rng.uniform(0.8, 1.6), (size, size)
    )
    return np.clip(0.5 + noise / (4 * noise.std()), 0, 1)


def leaves(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size"]:
    """Discs of all sizes that hide one another (dead leaves)."""
    canvas = np.full((size, size), 0.5, np.float32)
    for radius in size / rng.uniform(6, 50, 400):
        x, y = (int(at) for at in rng.uniform(0, size, 2))
        cv2.circle(canvas, (x, y), max(1, round(radius)), rng.uniform(), -1)
    return canvas


def patches(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size"]:
    """Every pixel has the level of the nearest of 40 points (Voronoi)."""
    points, pixels = rng.uniform(0, size, (2, 40)), np.arange(size)
    distance = (pixels[:, None, None] - points[0]) ** 2 + (pixels[:, None] - points[1]) ** 2
    return rng.uniform(size=40)[distance.argmin(-1)]


# ------------------------------------------------------------------------------------------------ drawing


def coverage(contours: Contours, size: int) -> Float[np.ndarray, "size size"]:
    """The share of each pixel that lies inside, to one part in FINE squared."""
    canvas = np.zeros((FINE * size, FINE * size), np.float32)
    corners = [
        np.rint(16 * (FINE * contour - 0.5)).astype(np.int32) for contour in contours
    ]  # in sixteenths; pixel 0 is centred at 0
    return shrunk(cv2.fillPoly(canvas, corners, 1.0, shift=4), size)


def shrunk(canvas: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)


def eight_bit(picture: np.ndarray) -> Picture:
    return np.rint(255 * picture).astype(np.uint8)
