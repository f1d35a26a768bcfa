"""Images as a model gets them, and as a file of 8 bits holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdiff.attacks import Budget, Oracle
from mmdiff.attacks.oracle import Frame


def is_whole(x: Tensor) -> bool:
    """Whether all values are whole numbers.

    Example:
        >>> is_whole(torch.tensor([1.0, 2.0])), is_whole(torch.tensor([1.5]))
        (True, False)
    """
    return not x.is_floating_point() or bool((x == x.round()).all())


def as_on_file(adv: Tensor, clean: Tensor, budget: Budget | None) -> Tensor:
    """Round an image so that the budget is kept between the two files.

    To the nearest value, and towards the clean pixel where that would leave the budget
    (:meth:`mmdiff.attacks.Budget.round`); where the clean image has fractions, the
    budget is counted from its rounded values, which are those of its file.

    Args:
        adv: Attacked image, (C, H, W), 0..255.
        clean: The clean one.
        budget: Where the attack had to stay; ``None`` for the clean image itself.

    Example:
        >>> clean = torch.tensor([100.0, 100.0])
        >>> as_on_file(torch.tensor([103.6, 97.2]), clean, Budget(4)).tolist()
        [104.0, 97.0]
        >>> as_on_file(torch.tensor([100.5, 99.4]), clean, Budget(0.5)).tolist()
        [100.0, 100.0]
    """
    adv = adv.clamp(0, 255)  # no file holds more, whatever an attack returns
    if budget is None:
        return adv.round()
    if not is_whole(clean):
        clean = clean.round()
        adv = budget.project(adv, clean)
    return budget.round(adv, clean)


@dataclass
class OwnPixels:
    """The images of a batch without their padding, and the inputs they are from.

    Args:
        frames: Clean inputs, and where in them the images are.
        inputs: What the model is to predict, in the dataloader's container.
        budget: Where the attack had to stay; ``None`` without one.
    """

    frames: list[Frame]
    inputs: Sequence[Tensor] | Tensor
    budget: Budget | None = None

    @classmethod
    def of(
        cls,
        oracle: Oracle,
        data: dict,
        inputs: Sequence[Tensor] | Tensor,
        budget: Budget | None,
    ) -> OwnPixels:
        """Find the images of a clean batch in the inputs that an attack made of it."""
        return cls(oracle.gather(data).frames, inputs, budget)

    def cut(self, number: int) -> Tensor:
        """One image as the model gets it: float, (C, H, W), 0..255."""
        frame, x = self.frames[number], self.inputs[number]
        return Frame(x.to(frame.canvas), frame.region).cut()

    def on_file(self, number: int) -> Tensor:
        """One image as a file of 8 bits holds it."""
        clean = self.frames[number].cut()
        return as_on_file(self.cut(number), clean, self.budget)

    def rounded_inputs(self) -> Sequence[Tensor] | Tensor | None:
        """Inputs with images of whole values; ``None`` if they have such already."""
        rounded, changed = [], False
        for number, frame in enumerate(self.frames):
            x = self.inputs[number].to(frame.canvas)
            own, whole = self.cut(number), self.on_file(number)
            changed |= not torch.equal(own, whole)
            rounded.append(Frame(x, frame.region).paste(whole))
        if not changed:
            return None
        if isinstance(self.inputs, Tensor):
            return torch.stack(rounded)
        return type(self.inputs)(rounded)  # type: ignore[call-arg]
