"""Functions as commands: options from a signature and its docstring, which say all of it once."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from models.contract import UsageError, nearest

from .arguments import check_arguments

# Names of values, where they are not the parameter's own.
_VALUES = {"folder": "RUN", "data": "D", "target": "COL", "features": "A,B", "out": "DIR"}
_VALUES |= {"methods": "A,B:GUIDE,...", "vary": "KEY=A,B,...", "sizes": "N,N,...", "init": "RUN"}
# What the command line decides by itself, or cannot give.
_APART = ("self", "callbacks", "progress")
_SHORT = {"dry_run": "-n"}


class Option(NamedTuple):
    """An option, or a positional argument, as argparse takes it.

    Attributes:
        names: `model`, or `--seed`.
        details: the keywords of `ArgumentParser.add_argument`.
    """

    names: tuple[str, ...]
    details: Mapping[str, Any]


def flag(*names: str, help: str) -> Option:
    """An option without a value."""
    return Option(names, {"action": "store_true", "help": help})


SETTINGS = Option(
    ("--set",),
    {
        "dest": "settings",
        "action": "extend",
        "nargs": "+",
        "metavar": "KEY=VALUE",
        "default": argparse.SUPPRESS,
        "help": "options of model, data and method (see show MODEL)",
    },
)


def options_of(verb: Callable, like: Callable | None = None) -> list[Option]:
    """The options of a function; one that is not given is not in the namespace.

    Args:
        verb: keyword parameters become options, others are positional; `**settings` are `--set`.
        like: whose words are meant where a docstring says "as for `like`".
    """
    written = _arguments_written(verb, like)
    options = []
    for name, parameter in inspect.signature(verb).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            options.append(SETTINGS)
        elif name not in _APART:
            options.append(_option(parameter, written.get(name, "")))
    return options


def _option(parameter: inspect.Parameter, text: str) -> Option:
    name, annotation = parameter.name, parameter.annotation
    if not isinstance(annotation, str):
        annotation = inspect.formatannotation(annotation)
    details: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS}
    if annotation == "bool":
        return Option(_flags(name), {**details, "action": "store_true"})
    if annotation.startswith("Literal"):
        details["choices"] = ast.literal_eval(annotation.removeprefix("Literal"))
    else:
        details["metavar"] = _VALUES.get(name, name.upper().replace("_OR_", "|"))
        if text.startswith("file "):
            details["metavar"] = "FILE"
    if "int" in annotation.split(" | "):
        details["type"] = _seed if name == "seed" else int
    if parameter.kind is parameter.VAR_POSITIONAL:
        return Option((name,), {**details, "nargs": "*"})
    if parameter.default is parameter.empty:
        return Option((name,), details)
    if "choices" in details and parameter.kind is not parameter.KEYWORD_ONLY:
        return Option((name,), {**details, "nargs": "?", "default": parameter.default})
    if parameter.default is not None:
        details["help"] = f"{text} (default {parameter.default})"
    return Option(_flags(name), details)


def _flags(name: str) -> tuple[str, ...]:
    long = f"--{name.replace('_', '-')}"
    return (_SHORT[name], long) if name in _SHORT else (long,)


def _arguments_written(verb: Callable, like: Callable | None) -> dict[str, str]:
    """Parameter to what the docstring says of it."""
    section = (inspect.getdoc(verb) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    written = {}
    for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n        .*)*)", section, re.M):
        for name in names.split(", "):
            known = {}
            if text.startswith("as for `") and like not in (None, verb):
                known = _arguments_written(like, None)
            written[name] = known.get(name, " ".join(text.split()).rstrip(".").replace("%", "%%"))
    return written


def _seed(text: str) -> int:
    try:
        return int(text if text.isdecimal() else "")
    except ValueError:  # also of thousands of digits
        reason = f"{text:.40} is no seed; give a whole number from 0 to 2**64 - 1"
        raise argparse.ArgumentTypeError(reason) from None


def arguments_of(
    verb: Callable,
    given: Mapping[str, Any],
    name: str,
    options: Collection[str] = (),
    **other: Any,
) -> inspect.BoundArguments:
    """The arguments of a function, of what the command line was given.

    Args:
        verb: the function.
        given: option to value, of those that were given.
        name: the command, for messages.
        options: names that are options of the command, if not of this function.
        other: further arguments, taken where the function knows them and they were not given.

    Raises:
        UsageError: an option that this function would ignore, or a setting that is none.
    """
    form = inspect.signature(verb)
    for option in given:
        if option not in form.parameters:
            word = "--set" if option == "settings" else f"--{option.replace('_', '-')}"
            raise UsageError(f"{name} would ignore {word} here; leave it out")
    named = {k: v for k, v in {**other, **given}.items() if k in form.parameters}
    pairs = pairs_of(named.pop("settings", ()))
    for key in pairs:
        if key in form.parameters or key in options:
            raise UsageError(f"{key} is no setting of --set; write --{key} {pairs[key]}")
    several = [p.name for p in form.parameters.values() if p.kind is p.VAR_POSITIONAL]
    positional = [value for key in several for value in named.pop(key, ())]
    return form.bind(*positional, **named, **pairs)


def pairs_of(words: Sequence[str]) -> dict[str, str]:
    """`key=value` words, also several in one word divided by commas, as a dictionary.

    Raises:
        UsageError: a word without `=`.
    """
    pairs = {}
    for word in words:
        for pair in re.split(r",(?=\s*\w+=)", word.strip().rstrip(",")):
            name, equals, value = pair.strip().partition("=")
            if not equals:
                raise UsageError(f"--set {word} has no '='; write --set {name}=VALUE")
            pairs[name] = value
    return pairs


# -- commands -----------------------------------------------------------------------------------

VERBOSE = flag("-v", "--verbose", help="traceback of an error")


@dataclass(frozen=True)
class Command:
    """A command: what does it, and what it may be given.

    Attributes:
        act: does it; returns the exit code, None for 0.
        verbs: the functions whose arguments it takes.
        flags: its own options.
        defaults: values of arguments that are not given, where the functions' are others.
        apart: arguments of the functions that it does not take.
        title: what it does, in a line; by default the first line of its last function.
    """

    act: Callable[[Typed], int | None]
    verbs: Sequence[Callable]
    flags: Sequence[Option] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    apart: Sequence[str] = ()
    title: str = ""

    def options(self, like: Callable | None) -> dict[str, Option]:
        """The arguments of all its functions, each as the first that has it says."""
        options: dict[str, Option] = {}
        for verb in self.verbs:
            for option in options_of(verb, like):
                name = option.details.get("dest", option.names[-1].strip("-").replace("-", "_"))
                if name in self.defaults:
                    text = f"{option.details['help']} (default {self.defaults[name]})"
                    option = option._replace(details={**option.details, "help": text})
                if name not in self.apart:
                    options.setdefault(name, option)
        return options

    @property
    def line(self) -> str:
        """What it does, in a line."""
        written = inspect.getdoc(self.verbs[-1]) or ""
        return (self.title or written.partition("\n")[0]).rstrip(".").replace("%", "%%")


@dataclass(frozen=True)
class Typed:
    """What was typed after the name of a command.

    Attributes:
        name: the command.
        command: what it is.
        given: arguments of its functions, those that were given alone.
        flags: its own options.
    """

    name: str
    command: Command
    given: Mapping[str, Any]
    flags: Mapping[str, Any]

    @property
    def progress(self) -> bool:
        """Whether to show progress."""
        return not self.flags.get("quiet", False) and sys.stderr.isatty()

    @property
    def json(self) -> bool:
        """Whether the result is printed as one JSON object."""
        return self.flags.get("json", False)

    def get(self, name: str) -> Any:
        """An argument that was given, or its default on the command line, or None."""
        return self.given.get(name, self.command.defaults.get(name))

    def calls(self, verb: Callable, **other: Any) -> Any:
        """What a function gives, called with these (see `arguments`)."""
        arguments = self.arguments(verb, **other)
        return verb(*arguments.args, **arguments.kwargs)

    def arguments(self, verb: Callable, **other: Any) -> inspect.BoundArguments:
        """The arguments of a function, with others where these were not given.

        Raises:
            UsageError: an option that this function would ignore, or a setting that is none.
        """
        other = {**self.command.defaults, "progress": self.progress, **other}
        return arguments_of(verb, self.given, self.name, self.command.options(None), **other)


def parser(commands: Mapping[str, Command], words: str, like: Callable) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        commands: name to command.
        words: what the program is.
        like: the function whose words are meant by "as for `like`".
    """
    program = _Parser(prog="zoo", description=words)
    listed = program.add_subparsers(required=True, metavar="COMMAND")
    for name, command in commands.items():
        of_command = listed.add_parser(
            name, help=command.line, description=command.line.replace("%%", "%")
        )
        of_command.set_defaults(command=name, parser=of_command)
        for option in [*command.options(like).values(), *command.flags, VERBOSE]:
            of_command.add_argument(*option.names, **option.details)
    return program


class _Parser(argparse.ArgumentParser):
    """One that tells what is wrong in one line, as all else does."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def parsed(
    argv: list[str] | None, commands: Mapping[str, Command], words: str, like: Callable
) -> Typed:
    """What was typed.

    Args:
        argv: the words; None takes those of the process.
        commands, words, like: as for `parser`.

    Raises:
        UsageError: an unknown word, with the nearest, or a value out of range.
    """
    namespace, unknown = parser(commands, words, like).parse_known_args(argv)
    typed = vars(namespace)
    name, of_command = typed.pop("command"), typed.pop("parser")
    if unknown:
        known = [word for word in of_command._option_string_actions if word.startswith("--")]
        raise UsageError(f"{name} takes no {unknown[0]}; {nearest(unknown[0], known)}")
    names = commands[name].options(like)
    given = {key: value for key, value in typed.items() if key in names}
    flags = {key: value for key, value in typed.items() if key not in names}
    return Typed(name, commands[name], check_arguments(given), check_arguments(flags))
