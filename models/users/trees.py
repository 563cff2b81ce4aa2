"""The files that a model's file is made of, and what they say: syntax trees, without comments."""

from __future__ import annotations

import ast
import hashlib
import textwrap
from collections.abc import Iterator
from pathlib import Path

from ..contract import BadInput


def trees(path: str | Path) -> dict[str, str]:
    """The file and every file that it imports from beside it, and what these import so.

    Nothing is imported: the statements are read. What is imported otherwise, by a name that is
    computed, is not found.

    Args:
        path: a Python file.

    Returns:
        Path, from the folder that holds the file or the outermost package that it is in, to the
        hash of its syntax tree; of a file that is none to that of its bytes.

    Raises:
        BadInput: a file is gone, or cannot be read.
    """
    root, hashes, left = root_of(Path(path)), {}, [Path(path).resolve()]
    while left:
        file = left.pop()
        name = file.relative_to(root).as_posix()
        if name in hashes:
            continue
        try:
            content = file.read_bytes()
        except OSError as error:
            raise BadInput(f"{path} cannot be read ({error.strerror}); check the path") from None
        tree = _parsed(content)
        hashes[name] = hashlib.sha256(content if tree is None else _words(tree)).hexdigest()
        packages = (folder / "__init__.py" for folder in file.parents if folder != root)
        left += [file for file in packages if file.is_relative_to(root) and file.is_file()]
        if tree is not None:
            left += _beside(tree, file, root)
    return hashes


def root_of(path: Path) -> Path:
    """The folder that holds a file, or the outermost of the packages that it is in."""
    folders = path.resolve().parents
    return next(folder for folder in folders if not (folder / "__init__.py").is_file())


def without_comments(text: str) -> str:
    """What a piece of Python says, without comments and docstrings; as it is where it is none."""
    tree = _parsed(textwrap.dedent(text).encode())
    return text if tree is None else _words(tree).decode()


def _parsed(content: bytes) -> ast.Module | None:
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _words(tree: ast.Module) -> bytes:
    """The tree in words, without the docstrings."""
    bodies = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in [node for node in ast.walk(tree) if isinstance(node, bodies)]:
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree).encode()


def _beside(tree: ast.Module, file: Path, root: Path) -> Iterator[Path]:
    """The files that the statements of a file import from its own folders."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name, (file.parent, root), root)
        elif isinstance(node, ast.ImportFrom):
            places = (file.parent, root)
            if node.level:
                above = (file.parent, *file.parent.parents)
                places = above[node.level - 1 : node.level]
            for alias in node.names:
                whole = ".".join(filter(None, (node.module, alias.name)))
                yield from _files(whole, places, root)


def _files(name: str, places: tuple[Path, ...], root: Path) -> Iterator[Path]:
    """The files of a dotted name, those of the packages around it too, under the root."""
    for place in places:
        folder = place
        for part in name.split("."):
            for file in (folder / f"{part}.py", folder / part / "__init__.py"):
                if file.is_file() and file.resolve().is_relative_to(root):
                    yield file.resolve()
            folder = folder / part
