"""The side of a prior that gives features: taps, early exit, sizes."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .taps import FeatureInfo, resolve_taps, tap_outputs, truncate_unet


class TappedUNet(nn.Module):
    """A U-Net whose blocks can be read by name; :class:`DiffusionModel` builds on it.

    Attributes:
        unet: The network.
        patch_size: It sees ``pixel_unshuffle(x, patch_size)``.
        encoder_stride: Pixels of the image per pixel of what noise is added to.
        feature_info: Its taps, in the order of execution.
        total_stride: What H and W of an image must divide by.
    """

    unet: nn.Module
    patch_size: int
    encoder_stride = 1

    def _set_taps(self, infos: list[FeatureInfo]) -> None:
        self.feature_info = infos
        # The factor that H and W must divide by, to survive every downsampler.
        self.total_stride = max(info.stride for info in infos)
        self.truncated = False

    def resolve_taps(self, taps: Sequence[str | int]) -> list[FeatureInfo]:
        """Turn names or indices (negatives count from the end) into taps.

        Raises:
            ValueError: For a name or an index that the network does not have.
        """
        return resolve_taps(self.feature_info, taps)

    def encode(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> what noise is added to: here the images themselves."""
        return x

    def decode(self, x0: Tensor) -> Tensor:
        """The way back from :meth:`encode`."""
        return x0

    def features(
        self,
        x_t: Tensor,
        t: float | Tensor,
        taps: Sequence[str | int],
        cond: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Run the U-Net up to the deepest tap and return the tapped outputs.

        Args:
            x_t: Noised images in the range of the prior, (N, 3, H, W).
            t: Timestep (or sigma), one or (N,).
            taps: Names or indices into ``feature_info``.
            cond: Class labels (N,) of a class-conditional prior.

        Returns:
            ``{name: (N, channels, H / stride, W / stride)}`` in the order asked for.

        Raises:
            ValueError: If H or W do not divide by ``total_stride``; an unknown tap; a
                missing or superfluous ``cond``.
        """
        names = [info.name for info in self.resolve_taps(taps)]
        out = self._tap_outputs(x_t, self._times(t, x_t), cond, names)
        return {name: out[name].to(x_t.dtype) for name in names}

    def _tap_outputs(self, x_t, t, cond, names) -> dict[str, Tensor]:
        return tap_outputs(self.unet, self._network_input(x_t), t, cond, names)

    def truncate(self, taps: Sequence[str | int]) -> None:
        """Delete every block past the deepest of ``taps``; predictions end here.

        Frees memory, and leaves DDP no block without a gradient.
        """
        names = [info.name for info in self.resolve_taps(taps)]
        order = [info.name for info in self.feature_info]
        deepest = max(names, key=order.index)
        self._truncate(deepest)
        # Layers of the deepest block stay with it.
        block = '.'.join(deepest.split('.')[:2])
        last = max(i for i, n in enumerate(order) if f'{n}.'.startswith(f'{block}.'))
        self.feature_info = self.feature_info[: last + 1]
        self.truncated = True

    def check_whole(self) -> None:
        """Complain if blocks were deleted.

        Raises:
            RuntimeError: If :meth:`truncate` was called.
        """
        if self.truncated:
            raise RuntimeError(
                'This prior was truncated to its taps and predicts no more; load it '
                'again with DiffusionModel.from_pretrained.'
            )

    def _truncate(self, deepest: str) -> None:
        truncate_unet(self.unet, deepest)

    def check_size(self, height: int, width: int) -> None:
        """Complain about an image that the U-Net cannot downsample evenly.

        Raises:
            ValueError: If H or W do not divide by ``total_stride``.
        """
        if height % self.total_stride or width % self.total_stride:
            raise ValueError(
                f'An input of {height}x{width} does not divide by the stride '
                f'{self.total_stride} of the U-Net; set '
                f'data_preprocessor.pad_size_divisor={self.total_stride}.'
            )

    def _network_input(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C p^2, H / p, W / p) in the network's precision."""
        self.check_size(*(side * self.encoder_stride for side in x.shape[-2:]))
        return F.pixel_unshuffle(x, self.patch_size).to(self.unet.dtype)

    def enable_gradient_checkpointing(self) -> None:
        """Keep no activations inside blocks: less memory, more time."""
        self.unet.enable_gradient_checkpointing()
