"""Check that one family of mm packages is installed, with mmcv's compiled ops."""

import importlib.util
from importlib.metadata import PackageNotFoundError, version

# The maintained forks and the classic packages give the same imports.
ONEDL = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmpretrain')
OPENMMLAB = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain')
FIX = (
    'install one family: bash tools/setup_env.sh, or pip install '
    '--no-build-isolation "mmdiff[onedl]" (or "mmdiff[openmmlab]") after torch'
)


def _installed(names: tuple[str, ...]) -> list[str]:
    installed = []
    for name in names:
        try:
            version(name)
        except PackageNotFoundError:
            continue
        installed.append(name)
    return installed


def check_stack() -> None:
    """Raise ImportError with the fix if the mm packages cannot work.

    Raises:
        ImportError: If neither or both families are there, or mmcv has no ops.
    """
    onedl, classic = _installed(ONEDL), _installed(OPENMMLAB)
    if onedl and classic:
        raise ImportError(
            f'Two families of mm packages are installed and overwrite each other '
            f'({", ".join(onedl + classic)}); uninstall one: '
            f'pip uninstall {" ".join(classic)}, then reinstall the other.'
        )
    if _installed(('transformers',)) and importlib.util.find_spec('mmpretrain'):
        if int(version('transformers').split('.')[0]) >= 5:
            raise ImportError(
                f'mmpretrain, which mmdet imports, fails beside transformers '
                f"{version('transformers')}; pip install 'transformers<5'."
            )
    missing = [
        name
        for name in ('mmengine', 'mmcv', 'mmdet')  # mmpretrain: classification only
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ImportError(f'mmdiff needs {", ".join(missing)}; {FIX}.')
    if importlib.util.find_spec('mmcv._ext') is None:
        raise ImportError(
            'mmcv was built without its compiled ops; build it against the torch that '
            'is installed: MMCV_WITH_OPS=1 pip install --no-build-isolation '
            '--force-reinstall --no-deps --no-cache-dir onedl-mmcv (7 minutes on two '
            'cores).'
        )
