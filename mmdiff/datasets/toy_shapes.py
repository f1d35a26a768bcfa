"""A generated detection set in VOC layout: shapes on textures, for demos and tests."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mmdiff.utils.files import whole_folder

from .layouts import Objects, Picture, voc_annotation
from .stamps import is_made

CLASSES = ('disk', 'square', 'triangle', 'star', 'ring', 'cross')
STAMP_FILE = 'toy_voc.txt'
# Sub-pixel bits of the corners, as cv2.fillPoly takes them.
SHIFT = 6


def _texture(rng: np.random.Generator, size: int, contrast: float) -> np.ndarray:
    """A random coloured texture: stripes, checks, clouds or a gradient, in 0..255."""
    ys, xs = np.mgrid[:size, :size] / size
    angle = rng.uniform(0, np.pi)
    along = xs * np.cos(angle) + ys * np.sin(angle)
    across = ys * np.cos(angle) - xs * np.sin(angle)
    frequency = rng.uniform(2, 9)
    kind = rng.integers(4)
    if kind == 0:
        wave = np.sin(2 * np.pi * frequency * along)
    elif kind == 1:
        wave = np.sign(
            np.sin(np.pi * frequency * along) * np.sin(np.pi * frequency * across)
        )
    elif kind == 2:
        wave = np.zeros((size, size))
        for octave in (3, 6, 12, 24):
            grid = rng.normal(size=(octave, octave)).astype(np.float32)
            wave = (
                wave + 2 * cv2.resize(grid, (size, size), interpolation=2) / octave**0.5
            )
    else:
        wave = 2 * along - 1
    wave = np.clip(wave, -1, 1)[..., None] * 0.5 + 0.5
    first = rng.uniform(30, 225, 3)
    second = np.clip(first + rng.uniform(-contrast, contrast, 3), 0, 255)
    return first * (1 - wave) + second * wave


def _outline(name: str) -> list[np.ndarray]:
    """Polygons of a shape within the unit circle; a second one is a hole."""
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    if name == 'disk':
        return [circle]
    if name == 'ring':
        return [circle, 0.55 * circle]
    if name == 'cross':
        a, b = 0.95, 0.3
        corners = [(-b, a), (b, a), (b, b), (a, b), (a, -b), (b, -b)]
        corners += [(-x, -y) for x, y in corners]
        return [np.array(corners)]
    count = {'square': 4, 'triangle': 3, 'star': 10}[name]
    turn = 2 * np.pi * np.arange(count) / count
    radius = np.ones(count)
    if name == 'star':
        radius[1::2] = 0.42
    return [np.stack([radius * np.cos(turn), radius * np.sin(turn)], 1)]


def _coverage(
    name: str, centre: np.ndarray, radius: float, angle: float, size: int
) -> np.ndarray:
    """Share of every pixel that a shape covers, (size, size), in 0..1."""
    rotation = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    mask = np.zeros((size, size), np.uint8)
    polygons = [
        np.round(((p * radius) @ rotation.T + centre) * 2**SHIFT).astype(np.int32)
        for p in _outline(name)
    ]
    # Even-odd rule: the second polygon is a hole.
    cv2.fillPoly(mask, polygons, 255, lineType=cv2.LINE_AA, shift=SHIFT)
    return mask / 255.0


@dataclass(frozen=True)
class SceneStyle:
    """What scenes look like.

    Args:
        radius_range: Smallest and largest radius of a shape, as shares of the size.
        max_objects: At most so many shapes; at least two are tried.
        in_view_share: Later shapes leave at least so much of an earlier one visible.
        contrast: Least difference (0..255) of a shape's mean colour to what is behind.
    """

    radius_range: tuple[float, float] = (0.15, 0.28)
    max_objects: int = 3
    in_view_share: float = 0.8
    contrast: float = 60


LARGE_SHAPES = SceneStyle()
# More and smaller shapes that hide more of each other.
SMALL_SHAPES = SceneStyle((0.07, 0.22), 5, 0.6, 45)


def draw_scene(
    rng: np.random.Generator, size: int = 128, style: SceneStyle = LARGE_SHAPES
) -> tuple[np.ndarray, list[tuple[str, tuple[int, int, int, int]]]]:
    """Draw one image.

    Args:
        rng: Source of everything random.
        size: Height and width in pixels.
        style: What the scene looks like.

    Returns:
        Image (size, size, 3), uint8, BGR, and ``(class name, (x1, y1, x2, y2))`` of
        each object, in pixels from 0; occluded parts of a shape count.
    """
    canvas = _texture(rng, size, contrast=60)
    in_view: list[np.ndarray] = []  # what later shapes left of each object
    areas: list[float] = []
    objects = []
    for _ in range(rng.integers(2, style.max_objects + 1)):
        placed = _place(rng, size, style, in_view, areas)
        if placed is None:
            continue
        name, cover, left = placed
        fill = _contrasting_texture(rng, canvas, cover, style.contrast)
        canvas += cover[..., None] * (fill - canvas)
        in_view = [*left, cover]
        areas.append(cover.sum())
        objects.append((name, _box(cover)))
    return _photograph(rng, canvas), objects


def draw_shape(
    rng: np.random.Generator, name: str, size: int, style: SceneStyle
) -> np.ndarray:
    """Draw one image of one shape.

    Args:
        rng: Source of everything else that is random.
        name: Class of the shape.
        size: Height and width in pixels.
        style: What the scene looks like; the number of objects is not read.

    Returns:
        Image (size, size, 3), uint8, BGR.
    """
    canvas = _texture(rng, size, contrast=60)
    cover = _random_coverage(rng, name, size, style)
    fill = _contrasting_texture(rng, canvas, cover, style.contrast)
    return _photograph(rng, canvas + cover[..., None] * (fill - canvas))


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Add sensor noise and round to 8 bits."""
    noisy = canvas + rng.normal(0, 3, canvas.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def _place(
    rng: np.random.Generator,
    size: int,
    style: SceneStyle,
    in_view: list[np.ndarray],
    areas: list[float],
) -> tuple[str, np.ndarray, list[np.ndarray]] | None:
    """Try ten times to place a shape that leaves the others in view.

    Returns:
        Its class, the share of every pixel that it covers, and what it leaves of each
        object; ``None`` if there is no room.
    """
    for _ in range(10):
        name = CLASSES[rng.integers(len(CLASSES))]
        cover = _random_coverage(rng, name, size, style)
        left = [view * (1 - cover) for view in in_view]
        share = style.in_view_share
        if all(v.sum() >= share * area for v, area in zip(left, areas)):
            return name, cover, left
    return None


def _random_coverage(
    rng: np.random.Generator, name: str, size: int, style: SceneStyle
) -> np.ndarray:
    """Share of every pixel that a shape of random size, place and angle covers."""
    radius = size * np.exp(rng.uniform(*np.log(style.radius_range)))
    centre = rng.uniform(radius, size - 1 - radius, 2)
    angle = rng.uniform(0, 2 * np.pi)
    return _coverage(name, centre, radius, angle, size)


def _contrasting_texture(
    rng: np.random.Generator, canvas: np.ndarray, cover: np.ndarray, contrast: float
) -> np.ndarray:
    """A texture that stands out from what is behind, on average over the shape."""
    size = len(canvas)
    weight = cover[..., None] / cover.sum()
    behind = (canvas * weight).sum((0, 1))
    while True:
        fill = _texture(rng, size, contrast=90)
        if np.abs((fill * weight).sum((0, 1)) - behind).max() >= contrast:
            return fill


def _box(cover: np.ndarray) -> tuple[int, int, int, int]:
    """Box around what a shape covers by more than half."""
    rows = np.nonzero((cover > 0.5).any(1))[0]
    columns = np.nonzero((cover > 0.5).any(0))[0]
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1, int(rows[-1]) + 1


def make_toy_voc(
    out: str | Path,
    num_train: int = 1200,
    num_val: int = 200,
    size: int = 128,
    seed: int = 0,
    small: bool = False,
    progress: Callable = lambda names: names,
) -> Path:
    """Write the set to ``out`` (``JPEGImages``, ``Annotations``, ``ImageSets/Main``).

    Image ``i`` of a split depends on ``(seed, split, i)`` only. A set of the same
    arguments that lies there already is kept; anything else is never written over.

    Args:
        out: Folder to make.
        num_train: Images in ``train.txt``.
        num_val: Images in ``val.txt``.
        size: Height and width of the images in pixels.
        seed: Seed of the set.
        small: Draw more and smaller shapes that hide more of each other.
        progress: Wraps the list of images, to show how far it is.

    Raises:
        ValueError: For sizes out of range.
        FileExistsError: If ``out`` holds something else.
    """
    out = Path(out)
    if size < 32 or num_train < 1 or num_val < 1:
        raise ValueError(
            f'A toy set needs size >= 32 and at least one image in each split; got '
            f'size={size}, num_train={num_train}, num_val={num_val}.'
        )
    kind = 'small' if small else 'large'
    stamp = f'train={num_train} val={num_val} size={size} seed={seed} {kind} v2\n'
    if is_made(out, STAMP_FILE, stamp):
        return out
    style = SMALL_SHAPES if small else LARGE_SHAPES
    with whole_folder(out, replace=True) as partial:  # at most an empty folder is there
        for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
            (partial / folder).mkdir(parents=True)
        for k, (split, count) in enumerate((('train', num_train), ('val', num_val))):
            names = [f'{split}_{i:05d}' for i in range(count)]
            for i, name in enumerate(progress(names)):
                rng = np.random.default_rng([seed, k, i])
                _write_scene(partial, name, *draw_scene(rng, size, style))
            listing = partial / 'ImageSets' / 'Main' / f'{split}.txt'
            listing.write_text('\n'.join(names) + '\n')
        (partial / STAMP_FILE).write_text(stamp)
    return out


def _write_scene(folder: Path, name: str, image: np.ndarray, objects: list) -> None:
    path = folder / 'JPEGImages' / f'{name}.jpg'
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    annotation = folder / 'Annotations' / f'{name}.xml'
    boxes = [box for _, box in objects]
    labels = [CLASSES.index(shape) for shape, _ in objects]
    shown = Objects(boxes, labels, [False] * len(boxes))
    picture = Picture(name, path.name, image.shape, objects=shown)
    annotation.write_bytes(voc_annotation(picture, CLASSES))
