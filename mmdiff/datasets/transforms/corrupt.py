"""Common corruptions of images, the same in every run."""

import inspect

import numpy as np
from mmcv.transforms import BaseTransform
from PIL import Image

from mmdiff.registry import TRANSFORMS
from mmdiff.utils.seeding import mix_seed

CORRUPTIONS = (
    'gaussian_noise',
    'shot_noise',
    'impulse_noise',
    'defocus_blur',
    'glass_blur',
    'motion_blur',
    'zoom_blur',
    'snow',
    'frost',
    'fog',
    'brightness',
    'contrast',
    'elastic_transform',
    'pixelate',
    'jpeg_compression',
)
SEVERITIES = (1, 2, 3, 4, 5)


def _find_library() -> dict:
    """Functions by name of the corruption; ``imagecorruptions`` imports slowly."""
    try:
        from imagecorruptions import corruption_dict
    except ImportError:
        corruption_dict = {}
    # Its first package has the same module: without seeds, and broken on numpy 2.
    blur = corruption_dict.get('glass_blur')
    if blur is None or 'seed' not in inspect.signature(blur).parameters:
        raise ImportError(
            'Corrupt needs the package imagecorruptions-imaug; install it: '
            "pip install 'mmdiff[corruptions]' (without imagecorruptions beside it)."
        )
    return corruption_dict


@TRANSFORMS.register_module()
class Corrupt(BaseTransform):
    """One of the 15 common corruptions at one of 5 severities.

    Hendrycks and Dietterich (2019), for images of any size by Michaelis et al. (2019),
    as the package ``imagecorruptions-imaug`` implements them. Changes ``img``: uint8,
    (H, W, 3), BGR as mm packages load it, both sides at least 32. An image is always
    corrupted the same way: everything random follows from ``seed``, its id
    (``img_id``, else ``img_path``), corruption and severity. Boxes and numpy's own
    generator are left as they were.

    Args:
        corruption: One of ``mmdiff.datasets.CORRUPTIONS``.
        severity: 1 to 5.
        seed: Seed of everything random, together with the above.

    Raises:
        ImportError: If the package is not installed.
        ValueError: For an unknown corruption or severity; on calling, for an image
            that is too small or not of 8 bits and three channels.

    Example:
        >>> import numpy as np
        >>> grey = dict(img=np.full((32, 32, 3), 100, np.uint8), img_id=7)
        >>> Corrupt('brightness', severity=5)(grey)['img'][0, 0]
        array([227, 227, 227], dtype=uint8)
    """

    def __init__(self, corruption: str, severity: int = 1, seed: int = 0) -> None:
        if corruption not in CORRUPTIONS:
            raise ValueError(
                f'corruption={corruption!r} is unknown; choose one of '
                f'{", ".join(CORRUPTIONS)}.'
            )
        if severity not in SEVERITIES:
            raise ValueError(f'severity={severity!r} must be 1, 2, 3, 4 or 5.')
        self.corruption, self.severity, self.seed = corruption, severity, seed
        self.function = _find_library()[corruption]
        self.has_seed = 'seed' in inspect.signature(self.function).parameters

    def transform(self, results: dict) -> dict:
        image = results['img']
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f'Corrupt takes uint8 images (H, W, 3), not {image.dtype} of '
                f'{image.shape}; put it right after LoadImageFromFile, in colour and '
                'without to_float32.'
            )
        if min(image.shape[:2]) < 32:
            raise ValueError(
                f'Corrupt needs sides of 32 pixels, not {image.shape}; resize before.'
            )
        name = results.get('img_id', results.get('img_path'))
        if name is None:
            raise ValueError('Corrupt seeds by img_id or img_path; give one of them.')
        seed = mix_seed(self.seed, name, self.corruption, self.severity)
        options = {'seed': seed} if self.has_seed else {}
        before = np.random.get_state()
        try:
            np.random.seed(seed)
            rgb = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
            corrupted = np.asarray(self.function(rgb, self.severity, **options))
        finally:
            np.random.set_state(before)
        results['img'] = np.ascontiguousarray(corrupted[..., ::-1].astype(np.uint8))
        return results

    def __repr__(self) -> str:
        return f'Corrupt({self.corruption!r}, severity={self.severity})'
