"""Limits of size, and words that say nothing: of the package and its tools."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ('mmdiff', 'tools')
    for path in (ROOT / folder).rglob('*.py')
    if '.mim' not in path.parts
)
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
FUNCTION_LINES, CLASS_LINES, FILE_LINES = 40, 200, 350
IGNORED = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


def docstring_lines(tree) -> set[int]:
    """Numbers of all lines in docstrings."""
    lines = set()
    for node in ast.walk(tree):
        body = getattr(node, 'body', None)
        if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
            continue
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            lines |= set(range(value.lineno, value.end_lineno + 1))
    return lines


def code_lines(text: str) -> set[int]:
    """Numbers of the lines with code: no blank lines, comments, docstrings."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in IGNORED:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(ast.parse(text))


def longer_than(text: str, kinds, limit: int) -> dict[str, int]:
    """Definitions with more lines of code than the limit, with their lines."""
    lines = code_lines(text)
    long = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, kinds):
            count = len(lines & set(range(node.lineno, node.end_lineno + 1)))
            if count > limit:
                long[node.name] = count
    return long


def packed_dicts(tree) -> list[int]:
    """Lines that unpack a `dict(...)` or `{...}` written at the place of the call."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        for keyword in node.keywords:
            value = keyword.value
            call = isinstance(value, ast.Call) and getattr(value.func, 'id', '')
            if keyword.arg is None and (call == 'dict' or isinstance(value, ast.Dict)):
                lines.append(node.lineno)
    return lines


def lines_that_name(tree, word: str) -> list[int]:
    """Lines where a variable or an argument has this name."""
    named = [
        node
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id == word)
        or (isinstance(node, ast.arg) and node.arg == word)
    ]
    return sorted({node.lineno for node in named})


def test_lines_of_code_are_counted_without_docstrings_comments_and_blanks():
    text = (
        'def f():\n    """A.\n\n    B.\n    """\n    # why\n\n    x = (\n        1)\n'
    )
    assert code_lines(text) == {1, 8, 9}
    assert longer_than(text, ast.FunctionDef, 2) == {'f': 3}


def test_packing_is_seen_where_it_is_written():
    assert packed_dicts(ast.parse('f(**dict(a=1))\ng(**given)\nh(**{"a": 1})')) == [
        1,
        3,
    ]


@pytest.mark.parametrize('path', FILES, ids=NAMES)
def test_functions_classes_and_files_are_short(path):
    text = path.read_text()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert longer_than(text, functions, FUNCTION_LINES) == {}
    assert longer_than(text, ast.ClassDef, CLASS_LINES) == {}
    assert len(text.splitlines()) <= FILE_LINES


@pytest.mark.parametrize('path', FILES, ids=NAMES)
def test_arguments_are_not_packed_and_things_are_named(path):
    tree = ast.parse(path.read_text())
    assert packed_dicts(tree) == [], 'lines with **dict(...)'
    assert lines_that_name(tree, 'found') == [], 'lines with the name found'
