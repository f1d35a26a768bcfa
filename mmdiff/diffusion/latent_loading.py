"""Read a latent prior: U-Net, VAE, and the embedding of a prompt."""

import hashlib
import os
import uuid
import warnings
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from .loading import PriorParts, check_weights, load_module, load_scheduler
from .schedule import build_scheduler

# What other U-Nets are conditioned on, beyond time and text.
OTHER_CONDITIONS = (
    'addition_embed_type',
    'class_embed_type',
    'num_class_embeds',
    'encoder_hid_dim_type',
)


def check_conditions(config: dict) -> None:
    """Refuse a U-Net that needs more than time and text.

    Raises:
        ValueError: If it does.
    """
    for key in OTHER_CONDITIONS:
        if config.get(key) is not None:
            raise ValueError(
                f'This U-Net has {key}={config[key]!r} (as SDXL, unCLIP or upscalers '
                'have): it needs more than time and a prompt; give Stable Diffusion '
                '1.x or 2.x.'
            )


def build_latent(config: dict, schedule: dict | None = None) -> PriorParts:
    """A latent prior with random weights.

    Args:
        config: ``unet`` and ``vae``, arguments of ``UNet2DConditionModel`` and of
            ``AutoencoderKL``.
        schedule: See :func:`build_scheduler`.
    """
    if set(config) != {'unet', 'vae'}:
        raise ValueError(
            f'A LatentDiffusion config has unet=dict(...) and vae=dict(...), not '
            f'{", ".join(map(str, config)) or "nothing"}.'
        )
    unet = UNet2DConditionModel(**config['unet'])
    vae = AutoencoderKL(**config['vae'])
    return PriorParts('latent', unet, build_scheduler(schedule), vae)


def read_latent(
    folder: Path,
    schedule: dict | None = None,
    cache_dir: str | None = None,
    random_weights: bool = False,
) -> PriorParts:
    """Read a pipeline folder; arguments as :func:`read_prior`'s."""
    # Before gigabytes are read.
    check_conditions(UNet2DConditionModel.load_config(folder / 'unet'))
    return PriorParts(
        'latent',
        load_module(UNet2DConditionModel, folder / 'unet', random_weights),
        build_scheduler(schedule) if schedule else load_scheduler(folder),
        load_module(AutoencoderKL, folder / 'vae', random_weights),
        None if random_weights else PromptEmbedder(folder, cache_dir),
    )


def draw_embedding(prompt: str, width: int) -> Tensor:
    """In place of a text encoder: standard normal seeded by the prompt, (1, 77, D)."""
    seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], 'big')
    return torch.randn(1, 77, width, generator=torch.Generator().manual_seed(seed))


class PromptEmbedder:
    """Embeds a prompt, reading the text encoder only if no file has the answer.

    Args:
        folder: A pipeline folder with ``text_encoder`` and ``tokenizer``, or with
            the one embedding that :meth:`LatentDiffusionModel.save_pretrained` wrote.
        cache_dir: Embeddings are kept in its folder ``prompts``; ``None`` is
            ``~/.cache/mmdiff`` (or under ``XDG_CACHE_HOME``).
    """

    def __init__(self, folder: Path, cache_dir: str | None = None) -> None:
        self.folder = folder
        self.saved = folder / 'prompt_embeds.safetensors'
        root = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
        cache = Path(cache_dir) if cache_dir else Path(root) / 'mmdiff'
        self.cache = cache.expanduser() / 'prompts'

    def embed(self, prompt: str) -> Tensor:
        """Embedding of ``prompt``, (1, L, D), fp32.

        Raises:
            FileNotFoundError: If there is no text encoder.
            ValueError: If it is damaged, or the prompt is too long for it.
            ImportError: If it is needed, and transformers is missing.
        """
        saved = self._read(self.saved, prompt)
        if saved is not None:
            return saved
        file = self.cache / f'{self._key(prompt)}.safetensors'
        try:
            embedding = self._read(file, prompt)
        # Damaged: it is only a cache.
        except (ValueError, safetensors.SafetensorError):
            embedding = None
        if embedding is None:
            embedding = self._compute(prompt)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                self._write(file, prompt, embedding)
            except OSError as error:
                warnings.warn(f'The prompt was not cached: {error}.', stacklevel=2)
        return embedding

    @staticmethod
    def _read(file: Path, prompt: str) -> Tensor | None:
        """The embedding in ``file``; ``None`` without a file, or of another prompt."""
        if not file.is_file():
            return None
        check_weights(file)
        with safetensors.safe_open(file, 'pt') as opened:
            if (opened.metadata() or {}).get('prompt') != prompt:
                return None
            return opened.get_tensor('prompt_embeds').float()

    def save(self, prompt: str, embedding: Tensor) -> None:
        """Write an embedding into the pipeline folder."""
        self._write(self.saved, prompt, embedding)

    @staticmethod
    def _write(file: Path, prompt: str, embedding: Tensor) -> None:
        # Another process sees all of it or none.
        part = file.with_name(f'{file.name}.{uuid.uuid4().hex}')
        tensors = {'prompt_embeds': embedding.cpu().contiguous()}
        part.write_bytes(safetensors.torch.save(tensors, {'prompt': prompt}))
        part.replace(file)

    def _text_files(self) -> list[Path]:
        encoder, tokenizer = self.folder / 'text_encoder', self.folder / 'tokenizer'
        weights = encoder / 'model.safetensors'
        if not weights.is_file():
            weights = encoder / 'pytorch_model.bin'
        if not weights.is_file() or not tokenizer.is_dir():
            raise FileNotFoundError(
                f'{self.folder} has no text_encoder (with weights) and tokenizer to '
                'embed the prompt with; copy them there, or take the prompt of its '
                f'{self.saved.name}.'
            )
        words = sorted(path for path in tokenizer.iterdir() if path.is_file())
        return [encoder / 'config.json', weights, *words]

    def _key(self, prompt: str) -> str:
        """SHA-256 of all that the embedding depends on."""
        digest = hashlib.sha256(hashlib.sha256(prompt.encode()).digest())
        for path in self._text_files():
            digest.update(f'{path.name}\0{path.stat().st_size}\0'.encode())
            with path.open('rb') as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()

    def _compute(self, prompt: str) -> Tensor:
        try:
            from transformers import CLIPTextModel, CLIPTokenizer
        except ImportError:
            raise ImportError(
                f'The prompt {prompt!r} has to be embedded once, which needs '
                "transformers: pip install 'mmdiff[sd]'."
            ) from None
        weights = self._text_files()[1]
        if weights.suffix == '.safetensors':
            check_weights(weights)
        try:
            tokenizer = CLIPTokenizer.from_pretrained(self.folder / 'tokenizer')
            encoder, info = CLIPTextModel.from_pretrained(
                weights.parent, output_loading_info=True
            )
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f'The text encoder in {self.folder} cannot be read: '
                f'{" ".join(str(error).split())[:300]}'
            ) from None
        if info['missing_keys']:
            raise ValueError(
                f'The weights in {weights.parent} do not fit its config.json: '
                f'{sorted(info["missing_keys"])[0]!r} is missing.'
            )
        limit = encoder.config.max_position_embeddings
        ids = tokenizer(prompt, padding='max_length', max_length=limit).input_ids
        if len(ids) > limit:
            raise ValueError(
                f'The prompt has {len(ids)} tokens with start and end, the text '
                f'encoder takes {limit}: shorten it.'
            )
        with torch.no_grad():
            return encoder.float().eval()(torch.tensor([ids]))[0]
