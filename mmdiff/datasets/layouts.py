"""Annotations of images as other tools read them: VOC, COCO, and lists of classes."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Box = tuple[float, float, float, float]


@dataclass
class Objects:
    """Objects of one image.

    Args:
        boxes: ``(x1, y1, x2, y2)`` of each, in pixels of the image, from 0.
        labels: Number of the class of each.
        ignored: Whether it counts neither as an object nor, if it is detected, as a
            mistake: "difficult" in VOC, a crowd in COCO.
    """

    boxes: list[Box] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)


@dataclass
class Picture:
    """An image of a set.

    Args:
        name: Its name, without a suffix.
        file: Its file, from the folder of images.
        shape: ``(height, width, channels)``.
        number: Its id in a COCO file.
        objects: What it shows; of a classifier's image nothing.
        label: Number of the class of the whole image, for classifiers.
    """

    name: str
    file: str
    shape: tuple[int, int, int]
    number: int = 1
    objects: Objects = field(default_factory=Objects)
    label: int = -1


def voc_annotation(picture: Picture, classes: Sequence[str]) -> bytes:
    """XML of one image; box corners are rounded to whole pixels, counted from 1.

    Readers of VOC, mmdet's among them, cut fractions off.

    Example:
        >>> objects = Objects([(1.6, 2.0, 8.0, 9.0)], [0], [False])
        >>> picture = Picture('a', 'a.png', (10, 10, 3), objects=objects)
        >>> text = voc_annotation(picture, ['cat'])
        >>> b'<xmin>3</xmin>' in text, b'<difficult>0</difficult>' in text
        (True, True)
    """
    root = ET.Element('annotation')
    ET.SubElement(root, 'filename').text = f'{picture.name}.jpg'
    node = ET.SubElement(root, 'size')
    height, width, depth = picture.shape
    for key, value in (('width', width), ('height', height), ('depth', depth)):
        ET.SubElement(node, key).text = str(value)
    objects = picture.objects
    for box, label, ignored in zip(objects.boxes, objects.labels, objects.ignored):
        node = ET.SubElement(root, 'object')
        ET.SubElement(node, 'name').text = classes[label]
        ET.SubElement(node, 'difficult').text = str(int(ignored))
        bndbox = ET.SubElement(node, 'bndbox')
        for key, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box):
            ET.SubElement(bndbox, key).text = str(round(value) + 1)
    ET.indent(root)
    return ET.tostring(root)


def coco_annotations(
    pictures: Sequence[Picture], classes: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """One COCO file for all images; boxes are exact, areas those of the boxes.

    Ids of objects and categories count from 1; categories are in the order of the
    classes. Objects to ignore are crowds.

    Example:
        >>> objects = Objects([(1.5, 2.0, 8.0, 9.0)], [0], [False])
        >>> picture = Picture('a', 'a.png', (10, 10, 3), 7, objects)
        >>> coco_annotations([picture], ['cat'])['annotations'][0]['bbox']
        [1.5, 2.0, 6.5, 7.0]
    """
    images, annotations = [], []
    for picture in pictures:
        height, width = picture.shape[:2]
        images.append(
            {
                'id': picture.number,
                'file_name': picture.file,
                'height': height,
                'width': width,
            }
        )
        objects = picture.objects
        for box, label, ignored in zip(objects.boxes, objects.labels, objects.ignored):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': picture.number,
                    'category_id': label + 1,
                    'bbox': [x1, y1, x2 - x1, y2 - y1],
                    'area': (x2 - x1) * (y2 - y1),
                    'iscrowd': int(ignored),
                }
            )
    categories = [{'id': k, 'name': name} for k, name in enumerate(classes, 1)]
    return {'images': images, 'annotations': annotations, 'categories': categories}
