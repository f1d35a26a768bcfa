"""Imports run one way: from what knows much to what knows little, and never round."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmdiff

ROOT = Path(mmdiff.__file__).parent
BELOW = {
    'version': set(),
    'utils': {'version'},
    'registry': {'utils'},
    'diffusion': {'utils'},
    'attacks': {'registry', 'utils'},
    'datasets': {'registry', 'utils'},
    'models': {'diffusion', 'registry', 'utils'},
    'evaluation': {'attacks', 'registry', 'utils', 'version'},
    'engine': {
        'attacks',
        'datasets',
        'diffusion',
        'evaluation',
        'models',
        'registry',
        'utils',
        'version',
    },
}
# Packages of which nothing is imported in a room, not even inside a function.
FORBIDDEN = {
    'diffusion': {'mmcv', 'mmdet', 'mmengine', 'mmpretrain'},
    'utils': {'mmcv', 'mmdet', 'mmpretrain', 'diffusers'},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in ROOT.rglob('*.py')}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test)


def statements(tree: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if function and not inside_functions:
            continue
        yield node
        yield from statements(node, inside_functions)


def imports(name: str, inside_functions: bool) -> set[str]:
    """Modules that a module imports, by their full names."""
    path = MODULES[name]
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    targets = set()
    for node in statements(ast.parse(path.read_text()), inside_functions):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parents = package.split('.')
                parents = parents[: len(parents) - node.level + 1]
                base = '.'.join([*parents, base] if base else parents)
            for alias in node.names:
                full = f'{base}.{alias.name}'
                targets.add(full if full in MODULES else base)
    return targets - {name}


def room(name: str) -> str:
    return name.split('.')[1]


@pytest.mark.parametrize('name', [name for name in MODULES if '.' in name])
def test_no_import_runs_upward(name):
    for target in imports(name, inside_functions=True):
        top = target.split('.')[0]
        assert top not in FORBIDDEN.get(room(name), ()), f'{name} imports {target}'
        if top == 'mmdiff':
            assert target != 'mmdiff', f'{name} imports the front door'
            allowed = {room(name), *BELOW[room(name)]}
            assert room(target) in allowed, f'{name} imports {target}'


def test_no_module_imports_itself_by_way_of_others():
    graph = {}
    for name in MODULES:
        targets = imports(name, inside_functions=False) & set(MODULES)
        # A package runs before its modules whatever they import: that is no choice.
        graph[name] = {t for t in targets if not f'{name}.'.startswith(f'{t}.')}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, ' -> '.join((*path[path.index(name) :], name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError(f'{{name}} is not there')

sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.parametrize(
    'code, blocked',
    [
        ('import mmdiff; mmdiff.__version__', ['torch', 'mmengine', 'diffusers']),
        (
            'from mmdiff.attacks import Budget; assert Budget(4) in Budget(8)',
            ['torch', 'mmengine', 'mmdet', 'diffusers'],
        ),
        (
            'import mmdiff; mmdiff.DiffusionModel',
            ['mmengine', 'mmcv', 'mmdet', 'mmpretrain'],
        ),
    ],
)
def test_the_door_is_light(code, blocked):
    """What does not need a package works where it is not installed."""
    script = BLOCK.format(blocked=blocked) + code
    result = subprocess.run(
        [sys.executable, '-c', script],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
