"""Embed the prompt of a latent prior, once."""

import hashlib
import os
import warnings
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..utils.digests import digest_file
from ..utils.files import whole_file
from .json_files import one_line
from .weights import check_weights


def draw_embedding(prompt: str, width: int) -> Tensor:
    """Stand in for a text encoder: normal noise seeded by the prompt, (1, 77, D)."""
    seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], 'big')
    return torch.randn(1, 77, width, generator=torch.Generator().manual_seed(seed))


class PromptEmbedder:
    """Embeds a prompt, reading the text encoder only if no file has the answer.

    Args:
        folder: A pipeline folder with ``text_encoder`` and ``tokenizer``, or with
            the one embedding that :meth:`LatentDiffusionModel.save_pretrained` wrote.
        cache_dir: Embeddings are kept in its folder ``prompts``; ``None`` is
            ``~/.cache/mmdiff`` (or under ``XDG_CACHE_HOME``).
        variant: Which copy of the text encoder's weights to read (``'fp16'``).

    Example:
        >>> import tempfile
        >>> embedder = PromptEmbedder(Path(tempfile.mkdtemp()))
        >>> embedder.save('a cat', torch.zeros(1, 77, 8))
        >>> embedder.embed('a cat').shape
        torch.Size([1, 77, 8])
    """

    def __init__(
        self,
        folder: Path,
        cache_dir: str | Path | None = None,
        variant: str | None = None,
    ) -> None:
        self.folder, self.variant = folder, variant
        self.saved = folder / 'prompt_embeds.safetensors'
        root = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
        cache = Path(cache_dir) if cache_dir else Path(root) / 'mmdiff'
        self.cache = cache.expanduser() / 'prompts'

    def embed(self, prompt: str) -> Tensor:
        """Embed ``prompt``, (1, L, D), fp32.

        Raises:
            FileNotFoundError: If there is no text encoder.
            ValueError: If it is damaged, or the prompt is too long for it.
            ImportError: If it is needed, and transformers is missing.
        """
        saved = read_embedding(self.saved, prompt)
        if saved is not None:
            return saved
        file = self.cache / f'{self._key(prompt)}.safetensors'
        try:
            cached = read_embedding(file, prompt)
        except (ValueError, safetensors.SafetensorError):
            cached = None  # damaged, and only a cache
        if cached is not None:
            return cached
        embedding = self._compute(prompt)
        try:
            write_embedding(file, prompt, embedding)
        except OSError as error:
            warnings.warn(f'The prompt was not cached: {error}.', stacklevel=2)
        return embedding

    def save(self, prompt: str, embedding: Tensor) -> None:
        """Write an embedding into the pipeline folder."""
        write_embedding(self.saved, prompt, embedding)

    def _text_files(self) -> list[Path]:
        """List the encoder's config, its weights, and the files of the tokenizer."""
        encoder, tokenizer = self.folder / 'text_encoder', self.folder / 'tokenizer'
        names = ['model.safetensors', 'pytorch_model.bin']
        if self.variant:
            names.insert(0, f'model.{self.variant}.safetensors')
        files = [encoder / name for name in names if (encoder / name).is_file()]
        weights = files[0] if files else encoder / names[-1]
        if not weights.is_file() or not tokenizer.is_dir():
            raise FileNotFoundError(
                f'{self.folder} has no text_encoder (with weights) and tokenizer to '
                'embed the prompt with; copy them there, or take the prompt of its '
                f'{self.saved.name}.'
            )
        words = sorted(path for path in tokenizer.iterdir() if path.is_file())
        return [encoder / 'config.json', weights, *words]

    def _variant_of(self, weights: Path) -> str | None:
        return self.variant if weights.name.count('.') == 2 else None

    def _key(self, prompt: str) -> str:
        """Return the SHA-256 of all that the embedding depends on."""
        lines = [f'{path.name} {digest_file(path)}' for path in self._text_files()]
        return hashlib.sha256('\n'.join([prompt, *lines]).encode()).hexdigest()

    def _compute(self, prompt: str) -> Tensor:
        tokenizer, encoder = self._read_encoder(prompt)
        limit = encoder.config.max_position_embeddings
        ids = tokenizer(prompt, padding='max_length', max_length=limit).input_ids
        if len(ids) > limit:
            raise ValueError(
                f'The prompt has {len(ids)} tokens with start and end, the text '
                f'encoder takes {limit}: shorten it.'
            )
        with torch.no_grad():
            return encoder.float().eval()(torch.tensor([ids]))[0]

    def _read_encoder(self, prompt: str) -> tuple:
        """Read the tokenizer and the text encoder."""
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
                weights.parent,
                output_loading_info=True,
                variant=self._variant_of(weights),
            )
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f'The text encoder in {self.folder} cannot be read: {one_line(error)}'
            ) from None
        if info['missing_keys']:
            raise ValueError(
                f'The weights in {weights.parent} do not fit its config.json: '
                f'{sorted(info["missing_keys"])[0]!r} is missing.'
            )
        return tokenizer, encoder


def read_embedding(file: Path, prompt: str) -> Tensor | None:
    """Read an embedding, fp32; ``None`` if there is no file, or of another prompt."""
    if not file.is_file():
        return None
    check_weights(file)
    with safetensors.safe_open(file, 'pt') as opened:
        if (opened.metadata() or {}).get('prompt') != prompt:
            return None
        return opened.get_tensor('prompt_embeds').float()


def write_embedding(file: Path, prompt: str, embedding: Tensor) -> None:
    """Write an embedding and the prompt that it is of."""
    tensors = {'prompt_embeds': embedding.cpu().contiguous()}
    with whole_file(file) as partial:
        partial.write_bytes(safetensors.torch.save(tensors, {'prompt': prompt}))
