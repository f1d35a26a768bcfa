"""One set of attacked images in a folder, as other tools read it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.structures.bbox import get_box_tensor

from mmdiff.attacks import Oracle
from mmdiff.datasets.layouts import (
    Objects,
    Picture,
    coco_annotations,
    voc_annotation,
)
from mmdiff.utils.files import write_json

from .image_set import ImageSet, image_names
from .image_store import link_or_copy, read_image

SPLIT = 'ImageSets/Main/test.txt'
COCO_FILE, CLASS_FILE = 'annotations.json', 'annotations.txt'


@dataclass
class OnDisk:
    """How far files are from the files of the clean images, in pixel units.

    Args:
        linf_max, linf_mean: Largest change of a value: the most and the mean of images.
        l2_max, l2_mean: L2 norm over all values of an image, likewise.
        unchanged: Images that are the clean ones.
    """

    linf_max: float
    linf_mean: float
    l2_max: float
    l2_mean: float
    unchanged: int

    @classmethod
    def measure(cls, files: Sequence[Path], clean: Sequence[Path]) -> OnDisk:
        """Read both files of every image and compare them."""
        sizes = []
        for one, other in zip(files, clean):
            delta = read_image(one).astype(float) - read_image(other)
            sizes.append((np.abs(delta).max(), np.sqrt((delta**2).sum())))
        linf, l2 = np.array(sizes).T
        return cls(
            float(linf.max()),
            float(linf.mean()),
            float(l2.max()),
            float(l2.mean()),
            int((linf == 0).sum()),
        )


def names_of(images: ImageSet) -> list[str]:
    """Names of files for images: those of their own files, each once.

    A second image of a name gets a number, so that more images later change no name.
    """
    names: dict[str, None] = {}
    for i in range(len(images)):
        info = images.sample(i).metainfo
        path = info.get('img_path')
        stem = str(info.get('img_id', i)) if path is None else Path(path).stem
        name = stem = re.sub(r'[/\\]', '_', stem)
        count = 1
        while name in names:
            count += 1
            name = f'{stem}_{count}'
        names[name] = None
    return list(names)


def ids_of(images: ImageSet) -> list[int]:
    """Ids for a COCO file: those of the data set, if they are numbers, else 1 to N."""
    ids = image_names(images)
    if len(set(ids)) == len(ids) and all(isinstance(name, int) for name in ids):
        return [int(name) for name in ids]
    return list(range(1, len(ids) + 1))


def objects_of(oracle: Oracle, sample: Any) -> Objects:
    """Objects of an image, in pixels of the image without its padding."""
    placed = oracle.at_input_scale(sample)
    region = oracle.region_of(sample, tuple(sample.metainfo['img_shape'][:2]))
    objects = Objects()
    for key, ignored in (('gt_instances', False), ('ignored_instances', True)):
        instances = placed.get(key, ())
        if 'bboxes' not in instances or 'labels' not in instances:
            continue
        boxes = get_box_tensor(instances.bboxes).cpu().double()
        boxes = boxes - boxes.new_tensor([region.left, region.top] * 2)
        objects.boxes += [tuple(box) for box in boxes.tolist()]
        objects.labels += instances.labels.tolist()
        objects.ignored += [ignored] * len(boxes)
    return objects


def write_annotations(
    folder: Path, pictures: Sequence[Picture], classes: Sequence[str], voc: bool
) -> None:
    """Write what detectors read: a COCO file with exact boxes, and VOC's layout.

    Readers of VOC take ``JPEGImages/NAME.jpg`` whatever is in it, and read the format
    off its content: these are links to the PNG files.

    Args:
        folder: Folder with the images in ``images``.
        pictures: All images.
        classes: Names of the classes.
        voc: Write VOC's layout, too.
    """
    write_json(folder / COCO_FILE, coco_annotations(pictures, classes))
    if not voc:
        return
    for name in ('Annotations', 'JPEGImages', str(Path(SPLIT).parent)):
        (folder / name).mkdir(parents=True)
    for picture in pictures:
        text = voc_annotation(picture, classes)
        (folder / 'Annotations' / f'{picture.name}.xml').write_bytes(text)
        link = folder / 'JPEGImages' / f'{picture.name}.jpg'
        try:
            os.symlink(Path('../images') / picture.file, link)
        except OSError:  # a file system, or a user, without links
            shutil.copyfile(folder / 'images' / picture.file, link)
    (folder / SPLIT).write_text(''.join(f'{p.name}\n' for p in pictures), 'utf-8')


def write_classes(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write what mmpretrain's ``CustomDataset`` reads: file and class in a line."""
    lines = [f'{picture.file} {picture.label}\n' for picture in pictures]
    (folder / CLASS_FILE).write_text(''.join(lines), 'utf-8')


def fill_folder(folder: Path, files: Sequence[Path], pictures: list[Picture]) -> None:
    """Put images into a new folder."""
    (folder / 'images').mkdir(parents=True)
    for file, picture in zip(files, pictures):
        link_or_copy(file, folder / 'images' / picture.file)
