"""Images as they are loaded, for a model that preprocesses them itself."""

from typing import Any

from mmengine.model import BaseDataPreprocessor
from torch import nn


class RawImages(BaseDataPreprocessor):
    """Move a batch to the device and leave it as it is.

    All else that is asked of it (``pad_size_divisor``, say) is the model's own.

    Args:
        inner: The model's own preprocessor.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__('inner'), name)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move a batch to the device.

        Args:
            data: ``inputs`` and what else the model's preprocessor takes.
            training: As of any preprocessor.
        """
        return self.cast_data(data)
