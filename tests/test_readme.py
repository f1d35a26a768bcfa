"""The documentation is true: snippets run; flags, files and numbers exist."""

import ast
import doctest
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config

from mmdiff.registry import ATTACKS, HOOKS, LOOPS, MODELS

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    ROOT / 'configs' / 'README.md',
    *sorted((ROOT / 'docs').glob('*.md')),
    *sorted((ROOT / 'docs' / 'guide').glob('*.md')),
    *sorted((ROOT / 'docs' / 'reference').glob('*.md')),
]
# By a word of the block that shows it.
THREE_LINES = {
    'coco': ROOT / 'configs/detection/faster-rcnn_toy-unet_dfpn_8xb2-1x_coco.py',
    'in1k': ROOT / 'configs/classification/toy-unet_linear-head_8xb32-100e_imagenet.py',
}
DETECTOR = ROOT / 'configs/detection/faster-rcnn_toy-unet_dfpn_1xb4-2e_toy-voc.py'
# Words that stand for something of the reader.
PLACEHOLDERS = ('CONFIG', 'CKPT', 'FILE', 'OUT', 'NAME', '$')


@dataclass
class Block:
    """A block of code: its page, its language, its text."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        first = self.text.strip().splitlines()[0]
        return f'{self.page.relative_to(ROOT)}: {first[:40]}'


def blocks(language: str) -> list[Block]:
    pattern = re.compile(r'^```(\w+)\n(.*?)^```', re.MULTILINE | re.DOTALL)
    return [
        Block(page, *match.groups())
        for page in PAGES
        for match in pattern.finditer(page.read_text())
        if match.group(1) == language
    ]


PYTHON = blocks('python')
SESSIONS = [block for block in PYTHON if block.text.startswith('>>>')]
CONFIGS = [
    block
    for block in PYTHON
    if re.match(r'(_base_|model|test_cfg|custom_imports) = ', block.text)
]
SCRIPTS = [b for b in PYTHON if b not in SESSIONS and b not in CONFIGS]


def commands() -> list[tuple[str, list[str]]]:
    """Page and words of every command, of blocks and of the running text."""
    lines = []
    for block in blocks('bash'):
        text = block.text.replace('\\\n', ' ')
        lines += [(block, part) for line in text.splitlines() for part in [line]]
    for page in PAGES:
        for code in re.findall(r'`((?:python|bash) tools/[^`]*)`', page.read_text()):
            text = re.sub(r'\[[^]]*\]', '', code.replace('\n', ' '))
            lines.append((page.relative_to(ROOT), text.replace('\\|', '')))
    parsed = [(str(place), shlex.split(line, comments=True)) for place, line in lines]
    return [(place, words) for place, words in parsed if words]


COMMANDS = commands()
TOOLS = [
    (place, words)
    for place, words in COMMANDS
    if words[0] in ('python', 'bash') and words[1].startswith('tools/')
]


def flags_of(script: Path) -> set[str]:
    """Flags that a script's parsers add."""
    flags = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == (
            'add_argument'
        ):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            flags |= {name for name in names if name.startswith('-')}
    return flags


def ids(items) -> list[str]:
    return [str(item) for item in items]


def test_every_kind_of_block_is_there():
    assert SESSIONS and CONFIGS and SCRIPTS and TOOLS


@pytest.mark.parametrize('block', SESSIONS, ids=ids(SESSIONS))
def test_sessions_print_what_they_show(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = block.text
    if re.search(r'^>>> for .*: print', text, re.MULTILINE):
        # Shown without the line of dots that doctest wants after a loop.
        text = re.sub(r'^(>>> for .*)$', r'\1\n...', text, flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, str(block), None, 0)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    results = doctest.DocTestRunner(optionflags=flags).run(test)
    assert results.attempted and not results.failed


def with_paths(text: str, folder: Path) -> str:
    """A config of the documentation with paths that exist."""
    text = text.replace("'../_base_/", f"'{ROOT}/configs/_base_/")
    text = text.replace("'configs/", f"'{ROOT}/configs/")
    (folder / 'my_detector.py').write_text(f'_base_ = {str(DETECTOR)!r}\n')
    if '_base_ =' in text:
        return text
    bases = [DETECTOR]
    if '_base_.' in text:  # a detector, on a prior, or in a wrapper
        parts = ('models/yolox-nano',)
        if "pop('prior')" in text:
            parts = ('models/faster-rcnn_dfpn-c64', 'priors/toy_voc', 'datasets/voc07')
        if "pop('attack')" in text:
            parts += ('adversarial/pgd-4_linf4',)
        if '_base_.test_evaluator' in text:
            parts += ('datasets/voc07_320px',)
        bases = [ROOT / 'configs' / '_base_' / f'{part}.py' for part in parts]
    return f'_base_ = {ids(bases)}\n{text}'


@pytest.mark.parametrize('block', CONFIGS, ids=ids(CONFIGS))
def test_configs_are_read_and_their_parts_exist(block, tmp_path):
    path = tmp_path / 'child.py'
    path.write_text(with_paths(block.text, tmp_path))
    cfg = Config.fromfile(path)
    for hook in cfg.get('custom_hooks', []):
        assert HOOKS.build(hook)
    if 'attacks' in cfg.get('test_cfg', {}):
        assert LOOPS.get(cfg.test_cfg.type)
        for attack in cfg.test_cfg.attacks:
            eps = attack.get('eps')
            for one in eps if isinstance(eps, list) else [eps]:
                budget = {} if one is None else dict(eps=one)
                assert ATTACKS.build({**attack, **budget})
    model = cfg.model
    while 'model' in model:  # wrapped for training
        assert MODELS.get(model.type)
        model = model.model
    fits = model.head if 'head' in model else model.neck
    assert not {'prior', 'attack'} & set(cfg) and fits.in_channels


@pytest.mark.parametrize('word', THREE_LINES)
def test_the_three_lines_of_the_readme_are_the_config(word):
    (block,) = (b for b in CONFIGS if b.page.name == 'README.md' and word in b.text)
    statements = ast.parse(block.text).body
    text = THREE_LINES[word].read_text()
    config = ast.parse(text).body[1:]  # without its docstring
    assert [ast.dump(s) for s in statements] == [ast.dump(s) for s in config]
    assert len(block.text.strip().splitlines()) == 3


@pytest.mark.parametrize('block', SCRIPTS, ids=ids(SCRIPTS))
def test_scripts_run(block, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(compile(block.text, str(block), 'exec'), names)
    if 'NormalisedGradient' in names:
        from mmdiff.attacks.iterative_attack import Trace

        clean = torch.full((3, 4, 4), 100.0)
        attack = names['NormalisedGradient'](eps=2, step_size=3)
        adv = attack.update(Trace(clean, clean, clean), torch.ones(3, 4, 4), 0.0, 0)
        assert torch.equal(adv, clean + 2)
    else:
        assert capsys.readouterr().out


@pytest.mark.parametrize('place, words', TOOLS, ids=[p for p, _ in TOOLS])
def test_commands_name_tools_and_flags_that_exist(place, words):
    tool = ROOT / words[1]
    assert tool.is_file()
    if tool.suffix == '.sh':
        return
    known = flags_of(tool) | {'--help'}
    theirs = Path(mmdet.__file__).parent / '.mim' / 'tools' / tool.name
    if tool.name in ('train.py', 'test.py'):
        known |= flags_of(theirs)
    assert {word for word in words if word.startswith('--')} <= known


@pytest.mark.parametrize('place, words', TOOLS, ids=[p for p, _ in TOOLS])
def test_commands_name_configs_and_attacks_that_exist(place, words):
    from mmdiff.attacks.torch_names import name_on_command_line
    from mmdiff.engine.presets import ATTACK_NAMES, PRESETS

    for word in words:
        if word.startswith('configs/') and not any(p in word for p in PLACEHOLDERS):
            assert (ROOT / word).is_file()
    if '--attack' in words:
        names = words[words.index('--attack') + 1].split(',')
        ours = {name for name in names if name_on_command_line(name) is None}
        assert ours <= {*ATTACK_NAMES, *PRESETS}


def test_commands_install_extras_that_exist():
    text = (ROOT / 'pyproject.toml').read_text()
    extras = {
        extra
        for _, words in COMMANDS
        for word in words
        for extra in re.findall(r'^(?:\.|mmdiff)\[(\w+)\]$', word)
    }
    assert extras
    for extra in extras:
        assert re.search(rf'^{extra} = \[', text, re.MULTILINE)


@pytest.mark.parametrize('page', PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
        if re.match(r'https?:', link):
            continue
        name, _, anchor = link.partition('#')
        target = page if not name else (page.parent / name).resolve()
        assert target.exists(), link
        if anchor:
            headings = re.findall(r'^#+ (.*)$', target.read_text(), re.MULTILINE)
            slugs = [re.sub(r'[^\w\- ]', '', h.lower()) for h in headings]
            assert anchor in [slug.replace(' ', '-') for slug in slugs], link


def test_every_flag_has_a_heading_and_says_what_to_do():
    from mmdiff.evaluation.checks import CODES

    page = (ROOT / 'docs' / 'reference' / 'checks.md').read_text()
    sections = re.split(r'^## `(\w+)`$', page, flags=re.MULTILINE)[1:]
    texts = dict(zip(sections[::2], sections[1::2]))
    assert set(texts) == set(CODES)
    for code, text in texts.items():
        for part in ('**Raised if**', '**Explanation.**', '**What to do.**'):
            assert text.count(part) == 1, (code, part)


def test_the_reference_names_every_key_of_robustness_json():
    from mmdiff.attacks import Budget
    from mmdiff.evaluation.entry import Entry, Sanity
    from mmdiff.evaluation.results import Results, RunSanity

    entry = Entry('pgd', 'pgd_total', 'attack', Budget(8), {'steps': 10, 'seed': 0})
    entry.sanity, entry.metrics_worst_restart = Sanity(), {}
    worst = Entry.worst_case(Budget(8), ['pgd_total_eps8'])
    sanity = RunSanity(attack='pgd', objective=1.0, square_objective=1.0)
    file = Results('tiny', [entry, worst], sanity=sanity).to_json()
    keys = {*file, *file['sanity'], *file['cost']}
    for row in file['results']:
        keys |= {*row, *row.get('sanity', ()), *row['cost']}
    page = (ROOT / 'docs' / 'reference' / 'robustness-json.md').read_text()
    assert keys <= set(re.findall(r'`(\w+)`', page))


def test_the_guide_has_every_attack_and_preset_by_name():
    from mmdiff.engine.presets import ATTACK_NAMES, PRESETS

    page = (ROOT / 'docs' / 'guide' / 'attack.md').read_text()
    first = [line.split('|')[1] for line in page.splitlines() if line.startswith('|')]
    names = set(re.findall(r'`(\w+)`', ' '.join(first)))
    assert names == {*ATTACK_NAMES, *PRESETS}


def test_numbers_of_the_readme_stand_in_the_results():
    pages = (
        'results.md',
        'results/adversarial-training.md',
        'results/yolox.md',
        'guide/attack.md',
    )
    results = ' '.join((ROOT / 'docs' / page).read_text() for page in pages)
    section = (ROOT / 'README.md').read_text().split('## Results')[1].split('\n## ')[0]
    numbers = set(re.findall(r'\d\.\d{3}', section))
    assert len(numbers) >= 30
    assert numbers <= set(re.findall(r'\d\.\d{3}', results))


def test_the_readme_names_the_tested_versions():
    setup = (ROOT / 'tools' / 'setup_env.sh').read_text()
    readme = (ROOT / 'README.md').read_text()
    versions = re.findall(r'TORCH=(\S+) TORCHVISION=\S+ MMCV=\S+==(\S+) ', setup)
    assert len(versions) == 2  # of both stacks
    for torch_version, mmcv_version in versions:
        assert f'tested with {torch_version}' in readme
        assert f'mmcv {mmcv_version}' in readme


def test_old_names_of_configs_are_in_the_changelog_only():
    changelog = (ROOT / 'CHANGELOG.md').read_text()
    renamed = re.findall(r'^\| `(\S+)\.py` \| `(\S+)\.py` \|$', changelog, re.MULTILINE)
    assert renamed
    for old, new in renamed:
        assert (ROOT / 'configs' / f'{new}.py').is_file()
        stem = re.compile(rf'\b{re.escape(Path(old).name)}\b')
        if Path(old).name != Path(new).name:
            for page in PAGES:
                assert not stem.search(page.read_text()), (page, old)
