"""Read weight files without executing anything that they hold."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor


def check_file(path: str | Path) -> Path:
    """Complain about a file that is missing or empty; return its path."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'There is no file {str(path)!r} to convert.')
    if path.stat().st_size == 0:
        raise ValueError(f'{path} is empty; fetch it again.')
    return path


# Keys of state dicts inside the checkpoints of training scripts, the average first.
WRAPPERS = ('ema', 'model_ema', 'ema_model', 'state_dict', 'model', 'module')
# What wrappers of modules put before every name.
PREFIXES = ('module.', '_orig_mod.', 'model.diffusion_model.', 'ema_model.')


def unwrap_state(state: dict) -> dict:
    """Return the state dict inside a checkpoint, without the prefixes of wrappers.

    Args:
        state: A state dict, or ``{'state_dict': ...}``, ``{'ema': ...}``, ...

    Example:
        >>> unwrap_state({'ema': {'module.out.bias': torch.zeros(1)}, 'step': 3})
        {'out.bias': tensor([0.])}
    """
    while not any(isinstance(value, Tensor) for value in state.values()):
        inner = [key for key in WRAPPERS if isinstance(state.get(key), dict)]
        if not inner:
            return state
        state = state[inner[0]]
    while True:
        # Of a latent model's checkpoint the denoiser alone.
        prefix = next((p for p in PREFIXES if any(n.startswith(p) for n in state)), '')
        whole = prefix == 'model.diffusion_model.'
        if not prefix or not (whole or all(n.startswith(prefix) for n in state)):
            return state
        start = len(prefix)
        state = {n[start:]: v for n, v in state.items() if n.startswith(prefix)}


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a plain state dict, as ``torch.save(model.state_dict(), path)`` wrote it.

    Args:
        path: File of ``torch.save``; tensors come back on the CPU.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is cut short, wants code executed (nothing is), or holds
            something else than named tensors.
    """
    path = check_file(path)
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # bytes of another kind make it raise any type
        if any(word in str(error) for word in ('GLOBAL', 'Unsupported class')):
            raise ValueError(
                f'{path} holds more than tensors and would execute code on loading '
                '(nothing was executed); give a file that torch.save(state_dict) wrote.'
            ) from None
        raise ValueError(
            f'{path} cannot be read ({type(error).__name__}); it is cut short, damaged '
            'or no file of torch.save: fetch it again.'
        ) from None
    if not isinstance(state, dict) or not state:
        raise ValueError(
            f'{path} holds an empty or nameless {type(state).__name__}; give a file '
            'that torch.save(model.state_dict()) wrote.'
        )
    state = unwrap_state(state)
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(
            f'{path} is no plain state dict: {odd[0]!r} is not a tensor; save the '
            'state dict itself, not a checkpoint around it.'
        )
    return dict(state)


class ForbiddenGlobal(pickle.UnpicklingError):
    """A pickle asks for something that is not on the list."""


class Inert:
    """Stand-in for an object of any class: keeps its state, does nothing."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


class PersistentObject(Inert):
    """Stand-in for what ``torch_utils.persistence`` pickles.

    Its source code travels along in ``module_src``; nobody looks at it.
    """

    def __init__(self, meta: dict) -> None:
        self.class_name, self.state = meta.get('class_name'), meta.get('state')


class EasyDict(dict):
    """Stand-in for ``dnnlib.util.EasyDict``."""

    def __setstate__(self, state: Any) -> None: ...


def _load_storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)


def _rebuild_tensor(*args: Any) -> Tensor:
    return torch._utils._rebuild_tensor_v2(*args[:4], False, OrderedDict())


def _scalar(dtype: Inert, data: bytes) -> Any:
    return np.frombuffer(data, np.dtype(dtype.args[0]))[0].item()


def _encode(text: str, _encoding: str) -> bytes:
    return text.encode('latin1')


ALLOWED = {
    'torch_utils.persistence._reconstruct_persistent_obj': PersistentObject,
    'dnnlib.util.EasyDict': EasyDict,
    'torch._utils._rebuild_tensor_v2': _rebuild_tensor,
    'torch._utils._rebuild_parameter': lambda data, *_: data,
    'torch.storage._load_from_bytes': _load_storage,
    'torch.nn.modules.container.ModuleDict': Inert,
    'collections.OrderedDict': OrderedDict,
    'builtins.set': set,
    '__builtin__.set': set,
    '_codecs.encode': _encode,
    'numpy.dtype': Inert,
    'numpy.ndarray': Inert,
}
for _package in ('numpy.core', 'numpy._core'):
    ALLOWED[f'{_package}.multiarray.scalar'] = _scalar
    ALLOWED[f'{_package}.multiarray._reconstruct'] = Inert


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler of EDM's files that knows the names of ``ALLOWED`` only."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name, or refuse it."""
        if f'{module}.{name}' not in ALLOWED:
            raise ForbiddenGlobal(f'{module}.{name}')
        return ALLOWED[f'{module}.{name}']


def load_pickle(path: str | Path) -> Any:
    """Read a pickle of EDM; objects come back as stand-ins.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is cut short, or asks for anything that is not allowed.
    """
    path = check_file(path)
    try:
        with path.open('rb') as file:
            return RestrictedUnpickler(file).load()
    except ForbiddenGlobal as error:
        raise ValueError(
            f'{path} asks for {error}, which no EDM checkpoint needs; nothing of it '
            'was executed: take the file from its publisher.'
        ) from None
    except Exception as error:  # bytes of another kind make it raise any type
        raise ValueError(
            f'{path} cannot be read ({type(error).__name__}); it is cut short, damaged '
            'or no pickle: fetch it again.'
        ) from None


class Unknown(Inert):
    """Stand-in for what nobody needs: it takes whatever a pickle does to it."""

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def add(self, item: Any) -> None:
        """Take an item of a set."""

    append = extend = add


class InertUnpickler(pickle.Unpickler):
    """Unpickler of torch's files: tensors and containers, and stand-ins for the rest.

    Nothing that a file names is imported or called, but for :data:`ALLOWED`.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name."""
        return ALLOWED.get(f'{module}.{name}', Unknown)


def load_checkpoint(path: str | Path) -> Any:
    """Read what ``torch.save`` wrote, whatever objects lie beside the tensors in it.

    Arguments of a training script, objects that dill pickled and the like come back as
    :class:`Unknown`: nothing of them is imported or executed.

    Args:
        path: The file; tensors come back on the CPU.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it cannot be read.
    """
    path = check_file(path)
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception:  # bytes of another kind make it raise any type
        if _is_script(path):
            raise ValueError(
                f'{path} is a network of TorchScript, with code in it; give the file '
                'of its weights, which torch.save wrote.'
            ) from None
    reader = SimpleNamespace(
        Unpickler=InertUnpickler,
        load=lambda file, **kwargs: InertUnpickler(file, **kwargs).load(),
        __name__='inert',
    )
    try:
        return torch.load(
            path, map_location='cpu', pickle_module=reader, weights_only=False
        )
    except Exception as error:
        raise ValueError(
            f'{path} cannot be read ({type(error).__name__}); it is cut short, damaged '
            'or no file of torch.save: fetch it again.'
        ) from None


def _is_script(path: Path) -> bool:
    """Whether torch.load would hand a file to TorchScript."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('constants.pkl') for name in archive.namelist())
