"""`zoo.py new NAME`: a model file and its test that run as they are, to be made one's own."""

import json
import keyword
from pathlib import Path
from string import Template

from ..contract import BadSetting, CannotWrite


def write(name: str) -> list[Path]:
    """Write the two files.

    Args:
        name: a new model of the zoo (`my_model`), or a file of the user's (`folder/my_model.py`).

    Returns:
        The paths of model and test.

    Raises:
        BadSetting: no valid name, or one that is taken. CannotWrite: not allowed, or no room.
    """
    path = Path(name)
    stem = path.stem
    if not stem.isidentifier() or keyword.iskeyword(stem) or stem.startswith("_"):
        raise BadSetting(f"'{stem}' is no name for a Python file; use letters, digits and _")
    if path.suffix == ".py":
        source, package = path, "models."
        test = path.with_name(f"test_{stem}.py")
    elif stem == name:
        models = Path(__file__).parents[1]
        source, package = models / f"{stem}.py", "."
        test = models.parent / "tests" / "models" / f"test_{stem}.py"
    else:
        raise BadSetting(f"{name} is no plain name; write {name}.py for a file of yours")
    for file in (source, test):
        if file.exists():
            raise BadSetting(f"{file} is there already; choose another name")
    call = str(source.resolve()) if path.suffix == ".py" else stem
    title = stem.replace("_", " ").capitalize()
    try:
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(_filled("new_model.txt", title=title, package=package), "utf-8")
        test.write_text(_filled("new_test.txt", name=stem, call=json.dumps(call)), "utf-8")
    except OSError as error:
        raise CannotWrite(
            f"cannot write {error.filename} ({error.strerror}); choose another folder"
        ) from None
    return [source, test]


def _filled(template: str, **words: str) -> str:
    """The text of a file beside this one, with words in the place of their names after `$`."""
    text = Path(__file__).with_name(template).read_text("utf-8")
    return Template(text).substitute(words)
