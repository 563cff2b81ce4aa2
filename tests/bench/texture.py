"""How the code reads, in numbers: lines of code, of docstrings, and how long functions are.

    python tests/bench/texture.py [FOLDER]

A line of code is one with a token that is neither a comment nor part of a docstring; the body of
a function is its lines of code, those of functions inside of it too.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PARTS = {"zoo.py and inference": ("zoo.py", "inference/**/*.py"), "models": ("models/**/*.py",)}
_BLANK = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Texture(NamedTuple):
    """What is measured of a source.

    Attributes:
        lines: all lines of the file.
        code: numbers of the lines of code.
        docstrings: numbers of the lines of docstrings.
        bodies: function to the lines of code of its body.
    """

    lines: int
    code: set[int]
    docstrings: set[int]
    bodies: dict[str, int]


def texture(source: str) -> Texture:
    """The texture of a source."""
    tree = ast.parse(source)
    docstrings = {line for node in ast.walk(tree) for line in _docstring(node)}
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*_BLANK, tokenize.ENDMARKER):
            code.update(range(token.start[0], token.end[0] + 1))
    code -= docstrings
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    bodies = {f"{n.name}:{n.lineno}": len(code & set(_body(n))) for n in functions}
    return Texture(source.count("\n"), code, docstrings, bodies)


def _docstring(node: ast.AST) -> range:
    if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
        return range(node.body[0].lineno, node.body[0].end_lineno + 1)
    return range(0)


def _body(node: ast.FunctionDef) -> range:
    return range(node.body[0].lineno, node.body[-1].end_lineno + 1)


def measured(house: Path) -> Iterator[str]:
    """Lines of a report on the sources of a checkout."""
    bodies, code, docstrings, longest = {}, 0, 0, {}
    for part, patterns in PARTS.items():
        own_code = own_docstrings = 0
        for path in sorted(path for pattern in patterns for path in house.glob(pattern)):
            found, name = texture(path.read_text(encoding="utf-8")), path.relative_to(house)
            own_code += len(found.code)
            own_docstrings += len(found.docstrings)
            longest[str(name)] = found.lines
            bodies |= {f"{name}:{function}": size for function, size in found.bodies.items()}
        yield f"{part}: {own_code} lines of code, {own_docstrings} of docstrings"
        code, docstrings = code + own_code, docstrings + own_docstrings
    sizes = sorted(bodies.values())
    yield f"docstring lines per 100 lines of code: {100 * docstrings / code:.1f}"
    tenth = sizes[int(0.9 * len(sizes))]
    yield f"functions: {len(sizes)}, median body {statistics.median(sizes):.0f}, p90 {tenth}"
    for title, of in (("longest functions", bodies), ("longest files", longest)):
        gravest = sorted(of.items(), key=lambda item: -item[1])[:5]
        yield f"{title}: {', '.join(f'{name} {size}' for name, size in gravest)}"


if __name__ == "__main__":
    print("\n".join(measured(Path(sys.argv[1] if len(sys.argv) > 1 else "."))))
