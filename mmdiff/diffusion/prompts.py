"""Embed the prompt of a latent prior, once."""

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..utils.digests import digest_file
from ..utils.files import whole_file
from .json_files import one_line
from .weights import check_weights

# Text encoders of a pipeline, by their folders; tokenizers have the same endings.
ONE_ENCODER = ('text_encoder',)
TWO_ENCODERS = ('text_encoder', 'text_encoder_2')


@dataclass(frozen=True)
class PromptEmbedding:
    """What a U-Net is told of a prompt.

    Args:
        tokens: One vector for each token, (1, L, D), fp32.
        pooled: One vector for the whole prompt, (1, P), fp32, where the U-Net takes it
            (SDXL).
    """

    tokens: Tensor
    pooled: Tensor | None = None


def draw_embedding(
    prompt: str, width: int, pooled_width: int | None = None
) -> PromptEmbedding:
    """Stand in for a text encoder: normal noise seeded by the prompt.

    Args:
        prompt: The prompt.
        width: D of (1, 77, D).
        pooled_width: P of the pooled vector, (1, P); ``None`` draws none.
    """
    seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], 'big')
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(1, 77, width, generator=generator)
    if pooled_width is None:
        return PromptEmbedding(tokens)
    return PromptEmbedding(tokens, torch.randn(1, pooled_width, generator=generator))


class PromptEmbedder:
    """Embeds a prompt, reading the text encoders only if no file has the answer.

    With one encoder (Stable Diffusion 1.x and 2.x) the tokens are its output; with two
    (SDXL, Podell et al. 2023) the outputs of their layers before the last, side by
    side, and the pooled vector is the projection of the second.

    Args:
        folder: A pipeline folder with text encoders and tokenizers, or with the one
            embedding that :meth:`LatentDiffusionModel.save_pretrained` wrote.
        cache_dir: Embeddings are kept in its folder ``prompts``; ``None`` is
            ``~/.cache/mmdiff`` (or under ``XDG_CACHE_HOME``).
        variant: Which copy of the text encoders' weights to read (``'fp16'``).
        encoders: Folders of the text encoders.

    Example:
        >>> import tempfile
        >>> embedder = PromptEmbedder(Path(tempfile.mkdtemp()))
        >>> embedder.save('a cat', PromptEmbedding(torch.zeros(1, 77, 8)))
        >>> embedder.embed('a cat').tokens.shape
        torch.Size([1, 77, 8])
    """

    def __init__(
        self,
        folder: Path,
        cache_dir: str | Path | None = None,
        variant: str | None = None,
        encoders: tuple[str, ...] = ONE_ENCODER,
    ) -> None:
        self.folder, self.variant, self.encoders = folder, variant, encoders
        self.saved = folder / 'prompt_embeds.safetensors'
        root = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
        cache = Path(cache_dir) if cache_dir else Path(root) / 'mmdiff'
        self.cache = cache.expanduser() / 'prompts'
        self._known: dict[str, PromptEmbedding] = {}

    def embed(self, prompt: str) -> PromptEmbedding:
        """Embed ``prompt``; the same one again takes no time.

        Raises:
            FileNotFoundError: If there is no text encoder.
            ValueError: If it is damaged, or the prompt is too long for it.
            ImportError: If it is needed, and transformers is missing.
        """
        if prompt not in self._known:
            self._known[prompt] = self._look_up(prompt)
        return self._known[prompt]

    def _look_up(self, prompt: str) -> PromptEmbedding:
        """Read the embedding off a file, or compute it."""
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

    def save(self, prompt: str, embedding: PromptEmbedding) -> None:
        """Write an embedding into the pipeline folder."""
        write_embedding(self.saved, prompt, embedding)

    def _key(self, prompt: str) -> str:
        """Return the SHA-256 of all that the embedding depends on."""
        files = [path for name in self.encoders for path in self._text_files(name)]
        lines = [f'{path.name} {digest_file(path)}' for path in files]
        return hashlib.sha256('\n'.join([prompt, *lines]).encode()).hexdigest()

    def _compute(self, prompt: str) -> PromptEmbedding:
        files = [self._text_files(name) for name in self.encoders]
        outputs = [
            run_encoder(prompt, paths[1], self._tokenizer_of(name), self.variant)
            for name, paths in zip(self.encoders, files)
        ]
        if len(outputs) == 1:
            return PromptEmbedding(outputs[0].last_hidden_state)
        tokens = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return PromptEmbedding(tokens, outputs[-1].text_embeds)

    def _tokenizer_of(self, encoder: str) -> Path:
        return self.folder / encoder.replace('text_encoder', 'tokenizer')

    def _text_files(self, name: str) -> list[Path]:
        """List an encoder's config, its weights, and the files of its tokenizer."""
        encoder, tokenizer = self.folder / name, self._tokenizer_of(name)
        names = ['model.safetensors', 'pytorch_model.bin']
        if self.variant:
            names.insert(0, f'model.{self.variant}.safetensors')
        files = [encoder / name for name in names if (encoder / name).is_file()]
        weights = files[0] if files else encoder / names[-1]
        if not weights.is_file() or not tokenizer.is_dir():
            raise FileNotFoundError(
                f'{self.folder} has no {name} (with weights) and {tokenizer.name} to '
                'embed the prompt with; copy them there, or take the prompt of its '
                f'{self.saved.name}.'
            )
        words = sorted(path for path in tokenizer.iterdir() if path.is_file())
        return [encoder / 'config.json', weights, *words]


def run_encoder(
    prompt: str, weights: Path, tokenizer_folder: Path, variant: str | None = None
) -> Any:
    """Run a text encoder of CLIP on one prompt, in fp32.

    Args:
        prompt: The prompt.
        weights: The encoder's file, in its folder.
        tokenizer_folder: Folder of its tokenizer.
        variant: Which copy of the weights that may be (``'fp16'``).

    Returns:
        What the encoder of transformers returns, with hidden states.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If a file is damaged, or the prompt is too long.
    """
    tokenizer, encoder = _read_encoder(prompt, weights, tokenizer_folder, variant)
    limit = encoder.config.max_position_embeddings
    ids = tokenizer(prompt, padding='max_length', max_length=limit).input_ids
    if len(ids) > limit:
        raise ValueError(
            f'The prompt has {len(ids)} tokens with start and end, the text '
            f'encoder takes {limit}: shorten it.'
        )
    with torch.no_grad():
        encoder = encoder.float().eval()
        return encoder(torch.tensor([ids]), output_hidden_states=True)


def _read_encoder(
    prompt: str, weights: Path, tokenizer_folder: Path, variant: str | None
) -> tuple:
    """Read the tokenizer and the text encoder."""
    try:
        import transformers
    except ImportError:
        raise ImportError(
            f'The prompt {prompt!r} has to be embedded once, which needs transformers: '
            "pip install 'mmdiff[sd]', or load and save_pretrained() the prior where "
            'it is installed: the folder then has the prompt embeddings.'
        ) from None
    if weights.suffix == '.safetensors':
        check_weights(weights)
    projects = weights.parent.name == TWO_ENCODERS[1]
    kind = 'CLIPTextModelWithProjection' if projects else 'CLIPTextModel'
    named = variant if weights.name.count('.') == 2 else None
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(tokenizer_folder)
        encoder, info = getattr(transformers, kind).from_pretrained(
            weights.parent, output_loading_info=True, variant=named
        )
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f'The text encoder in {weights.parent} cannot be read: {one_line(error)}'
        ) from None
    if info['missing_keys']:
        raise ValueError(
            f'The weights in {weights.parent} do not fit its config.json: '
            f'{sorted(info["missing_keys"])[0]!r} is missing.'
        )
    return tokenizer, encoder


def read_embedding(file: Path, prompt: str) -> PromptEmbedding | None:
    """Read an embedding; ``None`` if there is no file, or of another prompt."""
    if not file.is_file():
        return None
    check_weights(file)
    with safetensors.safe_open(file, 'pt') as opened:
        if (opened.metadata() or {}).get('prompt') != prompt:
            return None
        tokens, pooled = opened.get_tensor('prompt_embeds').float(), None
        if 'pooled_prompt_embeds' in opened.keys():  # noqa: SIM118
            pooled = opened.get_tensor('pooled_prompt_embeds').float()
        return PromptEmbedding(tokens, pooled)


def write_embedding(file: Path, prompt: str, embedding: PromptEmbedding) -> None:
    """Write an embedding and the prompt that it is of."""
    tensors = {'prompt_embeds': embedding.tokens.cpu().contiguous()}
    if embedding.pooled is not None:
        tensors['pooled_prompt_embeds'] = embedding.pooled.cpu().contiguous()
    with whole_file(file) as partial:
        partial.write_bytes(safetensors.torch.save(tensors, {'prompt': prompt}))
