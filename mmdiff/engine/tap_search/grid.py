"""The grid of a search: taps, times, and numbers of noises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmdiff.attacks.budget import check_count
from mmdiff.diffusion import DiffusionModel
from mmdiff.models import DiffusionUNet

# Shares of the timesteps of a prior, and sigmas in the units of images in [-1, 1].
TIMESTEPS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.45)
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: what a backbone is set to.

    Args:
        taps: Names of the taps, in the order in which the network runs them.
        time: Timestep, or sigma.
        num_noise: Noises that features are averaged over.

    Example:
        >>> Cell(('up.0', 'up.1'), 50).name
        'up.0+up.1'
    """

    taps: tuple[str, ...]
    time: int | float
    num_noise: int = 1

    @property
    def name(self) -> str:
        """Name of the taps, as ``--taps`` takes it."""
        return '+'.join(self.taps)


@dataclass(frozen=True)
class Grid:
    """All cells of a search.

    Args:
        taps: Entries: the taps of each.
        times: Timesteps or sigmas, ascending.
        num_noise: Numbers of noises, ascending.
    """

    taps: tuple[tuple[str, ...], ...]
    times: tuple[int | float, ...]
    num_noise: tuple[int, ...] = (1,)

    @property
    def cells(self) -> list[Cell]:
        """Cells in the order in which they are measured: a time, then its taps."""
        return [
            Cell(taps, time, count)
            for count in self.num_noise
            for time in self.times
            for taps in self.taps
        ]

    @classmethod
    def of(
        cls,
        model: DiffusionModel,
        taps: Sequence[str] | None = None,
        times: Sequence[str | float] | None = None,
        num_noise: Sequence[int] = (1,),
    ) -> Grid:
        """Read and check what a user asks for.

        Args:
            model: The prior.
            taps: Entries such as ``'up.1'`` or ``'up.0+up.1'``; ``None``: the output of
                every block.
            times: Times of the prior's unit; ``None``: a spread of low to middle ones.
            num_noise: Numbers of noises.

        Raises:
            ValueError: For an unknown tap, or a time or number out of range.
        """
        infos = model.feature_info
        if taps is None:
            taps = [info.name for info in infos if info.name.count('.') < 2]
        entries = [_parse_entry(model, entry) for entry in taps]
        values = _default_times(model) if times is None else times
        known = {_parse_time(model, value) for value in values}
        if not entries or not known or not num_noise:
            raise ValueError(
                'A search needs at least one of --taps, --times and --num-noise each; '
                'leave a flag out for its default.'
            )
        for count in num_noise:
            check_count('num_noise', count)
        return cls(
            tuple(dict.fromkeys(entries)),
            tuple(sorted(known)),
            tuple(sorted(set(num_noise))),
        )


def _parse_entry(model: DiffusionModel, entry: str) -> tuple[str, ...]:
    """Turn ``'up.1+up.0'`` into names, in the order in which the network runs."""
    parts = [part.strip() for part in str(entry).split('+')]
    wanted = [int(part) if _is_index(part) else part for part in parts]
    names = [info.name for info in model.resolve_taps(wanted)]
    if len(set(names)) < len(names):
        raise ValueError(f'--taps {entry} names a tap twice; name each once.')
    order = [info.name for info in model.feature_info]
    return tuple(sorted(names, key=order.index))


def _is_index(text: str) -> bool:
    return text.removeprefix('-').isdigit()


def _parse_time(model: DiffusionModel, value: str | float) -> int | float:
    """Read a time in the unit of the prior, and check its range."""
    try:
        time = float(value)
    except ValueError:
        low, high = model.time_range
        raise ValueError(
            f'--times {value} is no number; give {model.time_unit}s, {low} to {high}.'
        ) from None
    if model.time_unit == 'timestep' and time.is_integer():
        time = int(time)
    model.check_time(time)
    return time


def _default_times(model: DiffusionModel) -> Iterator[int | float]:
    """A spread of times; more noise than that leaves nothing of an object."""
    low, high = model.time_range
    if model.time_unit == 'timestep':
        yield from {round(share * (high + 1)) for share in TIMESTEPS}
    else:
        yield from (sigma for sigma in SIGMAS if low <= sigma <= high)


def set_point(
    backbone: DiffusionUNet,
    taps: Sequence[str],
    time: int | float,
    num_noise: int,
) -> list[str]:
    """Let a backbone give other taps at another time.

    It is as one that is built so: noises are numbered, and the first are those of a
    backbone that averages over fewer.

    Args:
        backbone: Built with all its blocks, and with as many noises as are asked for.
        taps: Names of taps.
        time: Timestep or sigma.
        num_noise: Noises to average over.

    Returns:
        Names of the taps in the order of the backbone's output.
    """
    infos = backbone.model.resolve_taps(list(taps))
    backbone.out_taps = sorted(infos, key=lambda info: info.stride)
    backbone.time.fill_(time)
    backbone.num_noise = num_noise
    return [info.name for info in backbone.out_taps]
