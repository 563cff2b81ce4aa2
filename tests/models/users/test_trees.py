"""What a file is made of: all that it imports from beside it, without comments."""

from __future__ import annotations

from models.users.trees import trees, without_comments


def test_trees_are_of_all_files_beside_and_of_what_they_say(tmp_path):
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from . import two\nimport json\n")
    (package / "two.py").write_text("from .sub.three import f\n")
    (package / "sub").mkdir()
    (package / "sub" / "__init__.py").write_text("")
    (package / "sub" / "three.py").write_text('def f():\n    "It is one."\n    return 1\n')
    found = trees(package / "one.py")
    files = {"one.py", "two.py", "__init__.py", "sub/__init__.py", "sub/three.py"}
    assert set(found) == {f"pack/{file}" for file in files}
    (package / "sub" / "three.py").write_text("def f():\n    return 1  # one\n")
    assert trees(package / "one.py") == found
    (package / "sub" / "three.py").write_text("def f():\n    return 2\n")
    assert trees(package / "one.py") != found


def test_what_cannot_be_parsed_is_as_it_is(tmp_path):
    (tmp_path / "odd.py").write_text("def (:\n")
    assert list(trees(tmp_path / "odd.py")) == ["odd.py"]
    assert without_comments("x = lambda: (") == "x = lambda: ("
    one, other = "    def f():  # a comment\n        return 1\n", "def f(): return 1"
    assert without_comments(one) == without_comments(other)
