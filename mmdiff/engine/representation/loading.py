"""Images of all subjects, loaded, and the same ones for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmengine.registry import DefaultScope

from ..presets import CLASSIFICATION
from ..tap_search.images import Part
from ..tap_search.measure import draw_rows
from ..tap_search.probe import Rows
from ..tap_search.probed_model import ProbedModel, oracle_of_probe
from ..tap_search.targets import ImageClasses, LocationClasses, Task
from .images import AnalysisImages
from .settings import AnalysisSettings
from .subjects import ModelRequest, PriorRequest, Subject, task_of


@dataclass
class Loaded:
    """Images of a subject, in batches of one padded size.

    Args:
        fit: Images to fit on.
        measured: Images to measure on.
        attacked: The first of these.
    """

    fit: list[Part]
    measured: list[Part]
    attacked: list[Part]

    def __post_init__(self) -> None:
        self._rows: tuple[list[Rows], Rows] | None = None

    def rows(self, seed: int) -> tuple[list[Rows], Rows]:
        """Locations to fit probes on, the same ones for every layer.

        Raises:
            ValueError: If the images to fit on show one class only.
        """
        if self._rows is None:
            self._rows = draw_rows(self.fit, seed)
        return self._rows


def build_task(name: str, num_classes: int, stride: int) -> Task:
    """What probes of a task tell.

    Args:
        name: ``'classification'`` or ``'detection'``.
        num_classes: Classes of the data set.
        stride: Pixels between the locations of a detector's probe.
    """
    if name == CLASSIFICATION:
        return ImageClasses(num_classes)
    return LocationClasses(num_classes, stride)


def load_images(subject: Subject, task: Task, settings: AnalysisSettings) -> Loaded:
    """Load the images of a subject, as its own pipeline reads them.

    Raises:
        ValueError: If there is no ground truth, pixel values are not 0..255, or the
            images to fit on show one class only.
    """
    images, count = subject.images, settings.attack_images
    model = ProbedModel(subject.preprocessor, subject.layers[0], task)
    oracle = oracle_of_probe(model, scale_of(subject, task))
    with DefaultScope.overwrite_default_scope(subject.scope):
        loaded = Loaded(
            images.fitted.parts(images.fit, oracle, task),
            images.measured.parts(images.held_out, oracle, task),
            images.measured.parts(images.held_out[:count], oracle, task),
        )
    loaded.rows(settings.seed)
    return loaded


def scale_of(subject: Subject, task: Task) -> str:
    """Scale of a detector's ground truth; of a classifier it has no meaning."""
    return 'original' if isinstance(task, ImageClasses) else subject.images.gt_scale


def images_of_all(
    requests: Sequence[ModelRequest | PriorRequest], settings: AnalysisSettings
) -> list[AnalysisImages]:
    """Choose the images of one request, or of two that must see the same ones.

    Raises:
        ValueError: If task, classes or images of the second differ.
    """
    chosen = []
    for request in requests:
        scope = request.cfg.get('default_scope', 'mmdet')
        with DefaultScope.overwrite_default_scope(scope):
            chosen.append(AnalysisImages(request.cfg, settings))
    first, *others = (task_of(request.cfg) for request in requests)
    if others and others[0] != first:
        raise ValueError(
            f'--compare is of {others[0]} and the model of {first}; give a config of '
            'the same task.'
        )
    if others:
        check_same_images(*chosen)
    return chosen


def check_same_images(first: AnalysisImages, second: AnalysisImages) -> None:
    """Complain about models that see other images.

    Raises:
        ValueError: If images or classes differ.
    """
    if first.classes != second.classes:
        raise ValueError(
            f'--compare has {len(second.classes)} classes and the model '
            f'{len(first.classes)}, or other names of them; give a config with the '
            'same data set.'
        )
    for mine, theirs, where in zip(first.names, second.names, ('training', 'test')):
        if mine != theirs:
            raise ValueError(
                f'--compare has other {where} images than the model, and what layers '
                'make of different images cannot be compared; give a config with the '
                'same data set.'
            )
