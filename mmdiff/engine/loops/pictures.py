"""Pictures for a report: clean image, attacked image and change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from ..gallery import try_to_draw
from .image_set import ImageSet
from .robust_plan import Step


def draw_gallery(
    out: Path,
    name: str,
    runner: Runner,
    steps: Sequence[Step],
    shown: Sequence[tuple[int, Any]],
) -> list[dict[str, Any]]:
    """Draw images under the strongest attack; what cannot be drawn is logged.

    Args:
        out: File of the report, beside which the pictures go.
        name: Name of the model.
        runner: Runner with the model and the test set.
        steps: Attacks and their rows, filled.
        shown: Numbers and ids of the images to draw.

    Returns:
        What the report says of each picture.
    """
    steps = [s for s in steps if s.entry.role == 'attack']
    steps = [step for step in steps if not step.entry.sanity.blocked]
    if not steps:
        return []
    step = min(steps, key=lambda s: s.entry.value)
    folder = out.with_name(f'{out.stem}_gallery')
    pictures = []
    for index, image_id in shown:
        file = folder / f'{step.entry.key}_{index}.png'
        if try_to_draw(file, {name: runner}, step.attack, [index]):
            picture = {
                'image_id': image_id,
                'attack': step.entry.label,
                'eps': step.entry.eps,
                'file': f'{folder.name}/{file.name}',
            }
            pictures.append(picture)
    return pictures


def shown_images(images: ImageSet, count: int) -> list[tuple[int, Any]]:
    """Numbers and ids of the first images, to be shown."""
    shown = range(min(count, len(images)))
    return [(i, images.sample(i).metainfo.get('img_id', i)) for i in shown]
