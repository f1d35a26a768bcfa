"""Conversions between alpha_bar, sigma and time: exact, there and back."""

import diffusers
import pytest
import torch

from mmdiff.diffusion import build_scheduler
from mmdiff.diffusion.schedule import (
    alpha_bar_to_sigma,
    karras_sigmas,
    sigma_to_alpha_bar,
    sigma_to_timestep,
    timestep_to_sigma,
    vp_sigma,
    vp_time,
)

SCHEDULES = {
    'linear': dict(beta_schedule='linear'),
    'scaled-linear': dict(
        beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012
    ),
    'cosine': dict(beta_schedule='squaredcos_cap_v2'),
    'shifted-cosine': dict(beta_schedule='shifted_cosine', shift=0.5),
}


@pytest.mark.parametrize('name', SCHEDULES)
def test_round_trips(name):
    alpha_bar = build_scheduler(SCHEDULES[name]).alphas_cumprod.double()
    sigma = alpha_bar_to_sigma(alpha_bar)
    assert torch.allclose(sigma_to_alpha_bar(sigma), alpha_bar, rtol=1e-12)
    t = torch.linspace(0, 999, 777, dtype=torch.float64)
    back = sigma_to_timestep(alpha_bar, timestep_to_sigma(alpha_bar, t))
    assert torch.allclose(back, t, atol=1e-8)
    whole = torch.arange(1000)
    assert torch.allclose(timestep_to_sigma(alpha_bar, whole), sigma, rtol=1e-12)
    # Beyond the table: its ends.
    ends = sigma_to_timestep(alpha_bar, torch.tensor([1e-9, 1e9]))
    assert ends.tolist() == pytest.approx([0, 999])


@pytest.mark.parametrize('name', ['linear', 'scaled-linear', 'cosine'])
def test_sigmas_are_those_of_diffusers(name):
    """EulerDiscreteScheduler counts sigmas over the same tables."""
    euler = diffusers.EulerDiscreteScheduler(
        **SCHEDULES[name], timestep_spacing='linspace'
    )
    euler.set_timesteps(10)
    alpha_bar = build_scheduler(SCHEDULES[name]).alphas_cumprod
    sigma = timestep_to_sigma(alpha_bar, euler.timesteps.double())
    # diffusers interpolates sigma itself, not its logarithm.
    whole = (euler.timesteps % 1) == 0
    assert whole.sum() >= 2
    expected = euler.sigmas[:-1].double()
    assert torch.allclose(sigma[whole], expected[whole], rtol=1e-4)
    assert torch.allclose(sigma, expected, rtol=2e-2)


def test_same_image_at_the_same_sigma():
    """x_t of DDPM is the EDM image scaled by sqrt(alpha_bar)."""
    scheduler = build_scheduler(None)
    x0, noise = torch.randn(2, 1, 3, 4, 4, dtype=torch.float64)
    t = torch.tensor([300])
    ddpm = scheduler.add_noise(x0, noise, t)
    alpha_bar = scheduler.alphas_cumprod[t].double()
    edm = x0 + alpha_bar_to_sigma(alpha_bar) * noise
    assert torch.allclose(ddpm.double(), alpha_bar.sqrt() * edm, rtol=1e-5)


def test_vp_round_trip_and_its_beta():
    t = torch.linspace(1e-3, 1, 100, dtype=torch.float64)
    assert torch.allclose(vp_time(vp_sigma(t)), t, rtol=1e-9)
    # alpha_bar = exp(-integral of beta), beta(t) = 0.1 + 19.9 t: DDPM's linear betas
    # in continuous time (Song et al. 2021).
    integral = 0.1 * t + 19.9 * t**2 / 2
    assert torch.allclose(sigma_to_alpha_bar(vp_sigma(t)), (-integral).exp())
    ddpm = build_scheduler(None).alphas_cumprod.double()
    late = torch.arange(100, 1000)  # of the first steps the sum is a coarse integral
    continuous = sigma_to_alpha_bar(vp_sigma((late + 1).double() / 1000))
    assert torch.allclose(continuous.log(), ddpm[late].log(), rtol=2e-2)


def test_karras_grid():
    sigmas = karras_sigmas(18)
    assert sigmas[0] == pytest.approx(80) and sigmas[-1] == pytest.approx(0.002)
    steps = (sigmas ** (1 / 7)).diff()
    assert torch.allclose(steps, steps[0].expand(17))
    edm = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0)
    edm.set_timesteps(18)
    assert torch.allclose(edm.sigmas[:-1].double(), sigmas, rtol=1e-4)
    assert karras_sigmas(1).tolist() == [80.0]


def test_shifted_cosine_table():
    """log SNR as in Hoogeboom et al. 2023, through the betas and back."""
    table = build_scheduler(dict(beta_schedule='shifted_cosine', shift=0.5))
    alpha_bar = table.alphas_cumprod.double()
    t = torch.linspace(1e-4, 1 - 1e-4, 1000, dtype=torch.float64)
    angle = torch.pi * t / 2
    snr = (torch.cos(angle) / torch.sin(angle) * 0.5) ** 2
    keep = t < 0.99
    expected = (snr / (1 + snr))[keep]
    assert torch.allclose(alpha_bar[keep], expected, rtol=1e-3)
    plain = build_scheduler(dict(beta_schedule='shifted_cosine'))
    assert (plain.alphas_cumprod >= table.alphas_cumprod).all()
