"""What travels with the package: metadata, configs and the index of models."""

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from mmdiff.utils.environment import ONEDL, _installed
from mmdiff.version import __version__

ROOT = Path(__file__).parents[1]
INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text())
METAFILES = [yaml.safe_load((ROOT / name).read_text()) for name in INDEX['Import']]
MODELS = [model for metafile in METAFILES for model in metafile['Models']]


def test_every_config_of_the_index_is_a_file_of_that_name():
    for model in MODELS:
        path = ROOT / model['Config']
        assert path.is_file() and path.stem == model['Name']


def test_every_config_is_in_the_index():
    folders = 'adversarial_training', 'classification', 'detection', 'pretrain'
    files = [path for name in folders for path in ROOT.glob(f'configs/{name}/*.py')]
    known = {model['Config'] for model in MODELS}
    assert {str(path.relative_to(ROOT)) for path in files} == known


def test_weights_of_the_index_are_files():
    for model in MODELS:
        assert model['Weights'] is None or (ROOT / model['Weights']).is_file()


def test_every_number_of_the_index_stands_in_the_results():
    """In one row of a table, with its clean mAP where there are two."""
    lines = (ROOT / 'docs' / 'results.md').read_text().splitlines()
    rows = [re.findall(r'\d+\.\d+', line) for line in lines if line.startswith('|')]
    results = [result for model in MODELS for result in model.get('Results', [])]
    assert results
    for result in results:
        numbers = {f'{value:.3f}' for value in result['Metrics'].values()}
        assert any(numbers <= set(row) for row in rows), result


def test_models_of_the_index_belong_to_a_collection():
    for metafile in METAFILES:
        names = {collection['Name'] for collection in metafile['Collections']}
        assert all(model['In Collection'] in names for model in metafile['Models'])


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == __version__


def declared():
    """The packages that are asked for: of the stack that is installed, and optional."""
    tomllib = pytest.importorskip('tomllib', reason='Python 3.10 has no tomllib')
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    extras = project['optional-dependencies']
    stack = 'onedl' if _installed(ONEDL) else 'openmmlab'
    required = [Requirement(text) for text in project['dependencies'] + extras[stack]]
    optional = [
        Requirement(text)
        for name in ('sd', 'corruptions', 'bench', 'analysis', 'test')
        for text in extras[name]
    ]
    return required, optional


def test_what_is_installed_is_in_the_declared_ranges():
    required, optional = declared()
    assert {'diffusers', 'torch'} <= {one.name for one in required}
    for one in required:
        assert one.specifier.contains(version(one.name), prereleases=True), one
    seen = 0
    for one in optional:
        try:
            installed = version(one.name)
        except PackageNotFoundError:
            continue
        if one.name != 'mmdiff':
            assert one.specifier.contains(installed, prereleases=True), one
            seen += 1
    assert seen  # pytest, at least


@pytest.mark.parametrize('name', ['diffusers', 'transformers'])
def test_the_hub_client_is_one_that_both_its_users_take(name):
    """Those of diffusers from 0.40 on, and of transformers 4, exclude each other."""
    try:
        needs = [Requirement(text) for text in requires(name)]
    except PackageNotFoundError:
        pytest.skip(f'{name} is not installed')
    clients = [
        one
        for one in needs
        if one.name.replace('_', '-') == 'huggingface-hub' and one.marker is None
    ]
    assert clients
    for one in clients:
        assert one.specifier.contains(version('huggingface_hub')), one


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel built from the files that git knows or would add."""
    folder = tmp_path_factory.mktemp('wheel')
    listed = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    # Weights are large, and no part of the package.
    names = [n for n in listed if not n.startswith('weights/') and (ROOT / n).is_file()]
    for name in names:
        target = folder / 'source' / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    flags = ['--no-deps', '--no-build-isolation', '-q', '-w', str(folder), '.']
    built = subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', *flags],
        cwd=folder / 'source',
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-1500:]
    (path,) = folder.glob('*.whl')
    return path


@pytest.mark.slow
def test_the_wheel_has_the_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('.dist-info/METADATA'))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata['Version'].replace('.dev0', '') == __version__.replace('.dev0', '')
    assert metadata['Author'] == 'The mmdiff authors'
    extras = set(metadata.get_all('Provides-Extra'))
    assert extras >= {'onedl', 'openmmlab', 'sd', 'corruptions', 'bench', 'test'}
    assert '# mmdiff' in metadata.get_payload()


@pytest.mark.slow
def test_the_wheel_has_every_file_beside_modules_and_every_config(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / 'mmdiff'
    data = [p for p in package.rglob('*') if p.is_file() and '.mim' not in p.parts]
    data = [p for p in data if p.suffix != '.pyc']
    configs = [p for p in (ROOT / 'configs').rglob('*') if p.suffix in ('.py', '.yml')]
    expected = {str(path.relative_to(ROOT)) for path in data}
    expected |= {f'mmdiff/.mim/{path.relative_to(ROOT)}' for path in configs}
    expected |= {'mmdiff/.mim/model-index.yml'}
    assert not expected - names


@pytest.mark.slow
def test_mmengine_reads_configs_of_the_installed_package_by_name(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    name = 'detection/faster-rcnn_toy-unet_dfpn_1xb4-2e_toy-voc.py'
    child = tmp_path / 'child.py'
    child.write_text(f'_base_ = "mmdiff::{name}"\n')
    code = (
        f'import sys; sys.path.insert(0, {str(tmp_path)!r})\n'
        'import mmdiff.registry\n'
        'from mmengine.config import Config\n'
        'from mmengine.hub import get_config\n'
        f'assert mmdiff.__file__.startswith({str(tmp_path)!r})\n'
        f'for cfg in (get_config("mmdiff::{name}"), Config.fromfile({str(child)!r})):\n'
        '    assert cfg.model.backbone.type == "mmdiff.DiffusionUNet"\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1500:]
