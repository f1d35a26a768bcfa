"""Load images of exact values."""

import numpy as np
from mmcv.transforms import BaseTransform

from mmdiff.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImageFromNpy(BaseTransform):
    """Load an image from ``img_path``, a ``.npy`` file, in place of a picture.

    Sets ``img`` (float32, (H, W, C), 0..255, channels in the order of the pipeline that
    wrote it), ``img_shape`` and ``ori_shape``. Loading runs no code.

    Raises:
        ValueError: On calling, if the file has no array of three axes.

    Example:
        >>> import tempfile
        >>> path = f'{tempfile.mkdtemp()}/a.npy'
        >>> np.save(path, np.full((32, 48, 3), 0.25, np.float32))
        >>> LoadImageFromNpy()(dict(img_path=path))['img_shape']
        (32, 48)
    """

    def transform(self, results: dict) -> dict:
        path = results['img_path']
        try:
            image = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f'{path} is no .npy file of an image ({error}).') from None
        if image.ndim != 3:
            raise ValueError(
                f'{path} has an array of shape {image.shape}, not (H, W, C).'
            )
        results['img'] = np.ascontiguousarray(image, dtype=np.float32)
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'
