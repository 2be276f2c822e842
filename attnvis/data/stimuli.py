"""Seeds in, pictures with known truth out.

Pop-out arrays (one item differs) and scenes (one named object on a texture).  Every picture is uint8 RGB
[size, size, 3]; masks hold every pixel that an item touches, so that all others are background alone.
"""

from colorsys import hsv_to_rgb

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

__all__ = [
    "COLOURS",
    "FILLS",
    "KINDS",
    "SEARCHES",
    "SHAPES",
    "pop_out",
    "scene",
    "search",
    "simulated_fixations",
]

KINDS = ("colour", "orientation", "size")
SEARCHES = ("conjunction", "tilted", "upright", "feature")
GRID = 7  # items per row and per column
FINE = 4  # everything is drawn so many times larger, then averaged

Picture = UInt8[np.ndarray, "size size 3"]
Mask = Bool[np.ndarray, "size size"]
Contours = list[Float[np.ndarray, "_ 2"]]  # corners (x, y); what an even number surrounds is a hole


def pop_out(kind: str, level: float, seed: int, size: int = 225) -> tuple[Picture, Mask, Mask]:
    """(picture, target, distractors): 7 x 7 equal items on grey, of which one differs by `level`.

    colour: discs of one saturation and value, hues `level` degrees apart.
    orientation: black or white bars, the target turned by `level` degrees.
    size: black or white discs, the target's diameter `level` times the others'.

    One seed puts the items at the same places whatever the level.  After P3 (Kotseruba et al. 2019).  Raises
    ValueError for another kind, and for a size that does not fit between the others.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no pop-out by {kind!r}; choose {', '.join(KINDS)}")
    if kind == "size" and not 0.2 <= level <= 2.5:
        raise ValueError(
            f"a target {level:g} times as large as the others does not fit its place; "
            "give a size from 0.2 to 2.5"
        )
    rng = np.random.default_rng(seed)
    cell = size / GRID
    grey = rng.uniform(0.35, 0.65)
    hue = rng.uniform(0, 360)
    angle = rng.uniform(0, 180)
    ink = float(rng.integers(2))
    indices = np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID)), -1).reshape(-1, 2)  # (x, y)
    centres = (indices + 0.5 + rng.uniform(-0.1, 0.1, (GRID**2, 2))) * cell
    target = int(rng.integers(GRID**2))

    radius = 0.3 * cell
    usual, odd = disc(), disc()
    usual_colour, odd_colour = (ink, ink, ink), (ink, ink, ink)
    if kind == "colour":
        usual_colour = hsv_to_rgb(hue % 360 / 360, 0.9, v=0.9)
        odd_colour = hsv_to_rgb((hue + level) % 360 / 360, 0.9, v=0.9)
    elif kind == "orientation":
        bar = block(1.0, 0.28)
        usual, odd = turned(bar, angle), turned(bar, angle + level)
    else:
        radius = min(0.3, 0.4 / level) * cell  # the larger of the two sizes keeps clear of its neighbours
        odd = [level * contour for contour in disc()]
    target_contours = [radius * contour + centres[target] for contour in odd]
    distractors = [
        radius * contour + centre
        for number, centre in enumerate(centres)
        for contour in usual
        if number != target
    ]

    picture = np.full((size, size, 3), grey)
    masks = []
    for contours, colour in ((target_contours, odd_colour), (distractors, usual_colour)):
        share = coverage(contours, size)[..., None]
        picture = picture * (1 - share) + share * np.array(colour)
        masks.append(share[..., 0] > 0)
    return eight_bit(picture), masks[0], masks[1]


def search(task: str, items: int, seed: int, size: int = 225) -> tuple[Picture, Mask, Mask]:
    """(picture, target, distractors): one target among `items` - 1 others, in cells of a 7 x 7 grid.

    feature: a red upright bar among green upright ones.
    conjunction: a red upright bar among as many red level and green upright ones.
    tilted: a bar tilted by 15 degrees among upright ones; upright: an upright one among tilted ones.

    People find a feature at once however many items there are, a conjunction the later the more there are,
    and tilted among upright more easily than the reverse (Treisman and Gelade 1980; Treisman and Gormican
    1988).  One seed has the target at one place whatever the task and the number.  Raises ValueError for
    another task, and for fewer than 3 or more than 49 items.
    """
    if task not in SEARCHES:
        raise ValueError(f"there is no search {task!r}; choose {', '.join(SEARCHES)}")
    if not 3 <= items <= GRID**2:
        raise ValueError(f"{items} items: give a number from 3 to {GRID**2}")
    rng = np.random.default_rng(seed)
    cell = size / GRID
    grey = rng.uniform(0.35, 0.65)
    cells = rng.permutation(GRID**2)[:items]
    jitter = rng.uniform(-0.1, 0.1, (GRID**2, 2))[cells]
    centres = (np.stack([cells % GRID, cells // GRID], 1) + 0.5 + jitter) * cell  # (x, y)

    upright, level = block(0.28, 1.0), block(1.0, 0.28)
    red, green = hsv_to_rgb(0.0, 0.9, v=0.9), hsv_to_rgb(1 / 3, 0.9, v=0.9)
    black = (0.0, 0.0, 0.0)
    shown = {  # the target; what the others are in turn
        "feature": ((upright, red), [(upright, green)]),
        "conjunction": ((upright, red), [(level, red), (upright, green)]),
        "tilted": ((turned(upright, 15.0), black), [(upright, black)]),
        "upright": ((upright, black), [(turned(upright, 15.0), black)]),
    }
    target, others = shown[task]
    picture = np.full((size, size, 3), grey)
    masks = np.zeros((2, size, size), bool)
    for number, centre in enumerate(centres):
        contours, colour = target if number == 0 else others[number % len(others)]
        share = coverage([0.3 * cell * contour + centre for contour in contours], size)[..., None]
        picture = picture * (1 - share) + share * np.array(colour)
        masks[min(number, 1)] |= share[..., 0] > 0
    return eight_bit(picture), masks[0], masks[1]


def simulated_fixations(density: Float[np.ndarray, "H W"], count: int, seed: int) -> Float[np.ndarray, "F 2"]:
    """Places (row, column) drawn from a density over the pixels, anywhere within the pixel.

    Of many, the density's information gain over a baseline is KL(density || baseline) / ln 2 bits.
    """
    rng = np.random.default_rng(seed)
    pixels = rng.choice(density.size, size=count, p=density.ravel() / density.sum())
    return np.stack(np.unravel_index(pixels, density.shape), 1) + rng.uniform(0, 1, (count, 2))


def scene(seed: int, size: int = 225) -> tuple[Picture, Mask, dict[str, str]]:
    """(picture, mask, labels): one object on a background of dull colours.

    The object lies anywhere, whole; its shape, colour and fill are random, and are the labels.  In some
    channel its own colour is at least .24 away from any background: its channels span .72 or more, those of a
    background .24 or less.
    """
    rng = np.random.default_rng(seed)
    picture = background(rng, size)
    shape = str(rng.choice(list(SHAPES)))
    colour = str(rng.choice(list(COLOURS)))
    fill = str(rng.choice(list(FILLS)))
    radius = rng.uniform(0.14, 0.28) * size
    centre = rng.uniform(radius + 1, size - radius - 1, 2)  # (x, y)
    turn = rng.uniform(0, 360)
    period = rng.uniform(0.35, 0.5) * radius
    hue = COLOURS[colour] + rng.uniform(-6, 6)
    bright = np.array(hsv_to_rgb(hue % 360 / 360, *rng.uniform(0.85, 1, 2)))

    pixels = (np.arange(FINE * size) + 0.5) / FINE
    x, y = pixels - centre[0], (pixels - centre[1])[:, None]
    cosine, sine = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    is_lit = FILLS[fill]((x * cosine + y * sine) / period, (y * cosine - x * sine) / period)
    lit = shrunk(is_lit.astype(np.float32), size)[..., None]
    contours = [radius * contour + centre for contour in turned(SHAPES[shape], turn)]
    share = coverage(contours, size)[..., None]
    painted = bright * (0.35 + 0.65 * lit)  # the fill is drawn in the colour and in a shade of it
    picture = eight_bit(picture * (1 - share) + painted * share)
    return picture, share[..., 0] > 0, {"shape": shape, "colour": colour, "fill": fill}


# ----------------------------------------------------------------------------- shapes, within the unit circle


def polygon(radii: list[float]) -> Float[np.ndarray, "_ 2"]:
    """Corners at equal angles about the middle, the first on top."""
    angles = np.radians(-90 + 360 * np.arange(len(radii)) / len(radii))
    return np.array(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def disc(radius: float = 1.0) -> Contours:
    """A circle, as a polygon of 60 corners."""
    return [polygon([radius] * 60)]


def block(half_width: float, half_height: float) -> Contours:
    """A rectangle about the middle."""
    return [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (half_width, half_height)]


def turned(contours: Contours, degrees: float) -> Contours:
    """About the middle, clockwise as y points down."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return [contour @ np.array([[cosine, sine], [-sine, cosine]]) for contour in contours]


ARM = np.array([(-0.3, -0.95), (0.3, -0.95), (0.3, -0.3)])
HALF = polygon([1.0] * 60)[:31]  # of a circle
SHAPES: dict[str, Contours] = {
    "disc": disc(),
    "ring": disc() + disc(0.55),
    "square": block(0.7, 0.7),
    "bar": block(0.95, 0.3),
    "triangle": [polygon([1.0] * 3)],
    "star": [polygon([1.0, 0.4] * 5)],
    "cross": [np.concatenate([turned([ARM], 90.0 * quarter)[0] for quarter in range(4)])],
    "moon": [np.concatenate([HALF, HALF[-2:0:-1] * (0.35, 1)])],
}
COLOURS = {  # hue in degrees
    "red": 0,
    "orange": 30,
    "yellow": 60,
    "green": 120,
    "cyan": 180,
    "blue": 225,
    "purple": 275,
    "pink": 325,
}
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
    """Waves of one direction, 3 to 15 over the picture, 0 ... 1."""
    angle = rng.uniform(0, np.pi)
    waves = rng.uniform(3, 15)
    along = np.arange(size) * np.cos(angle) + np.arange(size)[:, None] * np.sin(angle)
    return 0.5 + 0.5 * np.sin(2 * np.pi * (waves * along / size + rng.uniform()))


def weave(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size"]:
    """Two gratings across one another."""
    return grating(rng, size) * grating(rng, size)


def clouds(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size"]:
    """Noise with an amplitude of 1 / frequency ** .8 to 1.6, as photos have."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf  # the mean
    spectrum = np.fft.rfft2(rng.normal(size=(size, size))) / frequency ** rng.uniform(0.8, 1.6)
    noise = np.fft.irfft2(spectrum, (size, size))
    return np.clip(0.5 + noise / (4 * noise.std()), 0, 1)


def leaves(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size"]:
    """Discs of all sizes that hide one another (dead leaves)."""
    canvas = np.full((size, size), 0.5, np.float32)
    for radius in size / rng.uniform(6, 50, 400):
        x, y = rng.uniform(0, size, 2).astype(int).tolist()
        cv2.circle(canvas, (x, y), max(1, round(radius)), color=rng.uniform(), thickness=-1)
    return canvas


def patches(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size"]:
    """Every pixel has the level of the nearest of 40 points (Voronoi)."""
    rows, columns = rng.uniform(0, size, (2, 40))
    pixels = np.arange(size)
    distances = (pixels[:, None, None] - rows) ** 2 + (pixels[:, None] - columns) ** 2
    return rng.uniform(size=40)[distances.argmin(-1)]


# ---------------------------------------------------------------------------------------------------- drawing


def coverage(contours: Contours, size: int) -> Float[np.ndarray, "size size"]:
    """The share of each pixel that lies inside, to one part in FINE squared."""
    canvas = np.zeros((FINE * size, FINE * size), np.float32)
    # In sixteenths of a pixel, as shift=4 says; to cv2 pixel 0 is centred at 0.
    corners = [np.rint(16 * (FINE * contour - 0.5)).astype(np.int32) for contour in contours]
    return shrunk(cv2.fillPoly(canvas, corners, 1.0, shift=4), size)


def shrunk(canvas: np.ndarray, size: int) -> np.ndarray:
    """FINE pixels averaged to one, each way."""
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)


def eight_bit(picture: np.ndarray) -> Picture:
    """0 ... 1 -> 0 ... 255, rounded."""
    return np.rint(255 * picture).astype(np.uint8)
