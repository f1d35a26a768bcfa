"""Budgets: did an attack stay within its own, and did it use it?"""

from __future__ import annotations

from ..entry import Entry, Flag
from .codes import flag

# Share of the budget that gradients fill at the least, of any image: they fill all of
# it, or what the range of pixels leaves, which is half of 0..255 at the least.
USED_SHARE = 0.5
# Share of images whose objective may be another than the one reported: targets that are
# assigned by predictions may jump by rounding.
MISREPORTED_SHARE = 0.1
# Distance of a pixel value from those around it that is rounding, to the whole value in
# a file at most.
BEYOND = 0.51
# Relative difference of an objective that is rounding.
SAME = 1e-3
# Radius that is nearly nothing, in pixel units: one of images in 0..1 was meant, as
# 8/255, or 0.5 and 3 of L2.
NOTHING = {'linf': 0.1, 'l2': 4}


def check_bounds(entry: Entry) -> list[Flag]:
    """Whether the attack stayed where it must."""
    sanity, eps, flags = entry.sanity, entry.eps, []
    size = _size_of(entry)
    # float32 around 255 resolves 1.5e-5; a norm sums over many pixels.
    if eps is not None and size > eps + 1e-3 * max(1, eps):
        what = 'displacement' if entry.norm == 'flow' else 'change'
        text = f'{entry.name} left its budget: a {what} of {size:.4g}'
        flags.append(flag('left_budget', text))
    elif sanity.max_beyond > BEYOND:
        text = (
            f'{entry.name} left its budget: a pixel value is {sanity.max_beyond:.4g} '
            f'away from all those within {eps:g} pixels'
        )
        flags.append(flag('left_budget', text))
    if eps and eps < NOTHING.get(entry.norm or '', 0):
        text = (
            f'{entry.name} has a budget of {eps:.3g} in pixel values of 0..255, of '
            'which an image file keeps next to nothing; 8/255 is eps=8'
        )
        flags.append(flag('budget_tiny', text))
    if sanity.padding_changed:
        text = f'{entry.name} changed the padding of {sanity.padding_changed} images'
        flags.append(flag('attacked_padding', text))
    if sanity.misreported > MISREPORTED_SHARE * sanity.asked_again:
        text = (
            f'{entry.name} reports other objectives than those of the images that it '
            f'hands on ({sanity.misreported} of {sanity.asked_again})'
        )
        flags.append(flag('not_as_reported', text))
    if sanity.images and not 0 <= sanity.pixel_min <= sanity.pixel_max <= 255:
        ends = f'{sanity.pixel_min:.4g} to {sanity.pixel_max:.4g}'
        text = f'{entry.name} left the range of pixels: {ends}'
        flags.append(flag('left_pixel_range', text))
    return flags


def _size_of(entry: Entry) -> float:
    """Size of the largest change of a row, in the norm of its budget."""
    assert entry.sanity is not None
    sizes = {'linf': entry.sanity.max_delta, 'flow': entry.sanity.max_flow}
    return sizes.get(entry.norm or '', entry.sanity.max_l2)


def check_search(entry: Entry) -> list[Flag]:
    """Look for what a search along gradients did less than it should.

    Args:
        entry: Row of an attack along gradients, with its ``sanity``.
    """
    sanity, eps, flags = entry.sanity, entry.eps, []
    size = _size_of(entry)
    # The few pixels of a mask may have no room for an L2 norm.
    has_room = entry.norm != 'l2' or not (entry.budget and entry.budget.mask)
    if eps and sanity.images and has_room and size < USED_SHARE * eps:
        text = (
            f'{entry.name} changed no image by more than {size:.3g}, less than half of '
            'its budget'
        )
        flags.append(flag('budget_unused', text))
    step, steps = entry.settings.get('step_size'), entry.settings.get('steps', 1)
    # A budget is twice its radius wide.
    if eps and step and steps > 1 and step > 2 * eps:
        text = (
            f'{entry.name} is not converged: each step of {step:g} crosses the whole '
            'budget, so that iterates jump between its corners'
        )
        flags.append(flag('not_converged', text))
    if eps and step and not entry.cumulative and steps * step < (1 - SAME) * eps:
        text = (
            f'{entry.name} is not converged: {steps} steps of {step:g} cannot cross '
            'its budget'
        )
        flags.append(flag('not_converged', text))
    # A search hands on the best of its iterates, or the last.
    if sanity.losses and sanity.images and sanity.objective_ends:
        last = sanity.losses[max(sanity.losses)] / sanity.images
        end = sanity.objective_ends[1]
        if end < last - SAME * max(abs(last), abs(end)):
            text = (
                f'{entry.name} hands on images with an objective of {end:.4g}, its '
                f'last iterates had {last:.4g}'
            )
            flags.append(flag('not_as_reported', text))
    return flags
