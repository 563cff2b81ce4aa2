"""Bayes Zoo: models of Bayesian deep learning, every inference on every model, one result type.

The same verbs in Python and on the command line:

    import zoo
    run = zoo.run("coin", method="nuts", data="HH")
    run.verdict, run.summary(), run.idata, run.predict(), run.plot("marginals")

    python zoo.py run coin --method nuts --data HH
"""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import models

if Path(models.__file__).parent.parent != Path(__file__).resolve().parent:
    raise ImportError(
        f"`models` was found in {Path(models.__file__).parent}, not beside zoo.py: another folder "
        "of that name shadows it; leave that folder, or rename it"
    )

from inference.core import system_errors
from inference.core.callbacks import Callback
from inference.core.command_line import Command, Option, Typed, flag, parsed
from inference.core.plain_text import plain
from inference.core.signals import heeding
from inference.core.zoo_warnings import ZooWarning, ours_alone
from inference.workflow import resume as resuming
from inference.workflow import run as running
from inference.workflow.calibrate import calibrate
from inference.workflow.check import check, gradients
from inference.workflow.compare import compare, has_no_result, report
from inference.workflow.listing import clean, described, lines_of, listed, state_of
from inference.workflow.plan import Request, columns
from inference.workflow.result import Run, rows_of
from inference.workflow.resume import resume
from inference.workflow.run import Watch, load, run
from inference.workflow.study import is_study
from models.contract import (
    BadInput,
    BadSetting,
    CannotWrite,
    Fault,
    Locked,
    MissingInput,
    MissingRun,
    Refused,
    Stopped,
    UsageError,
)

if "ipykernel" in sys.modules:
    # Pyro imports this, and in a notebook without widgets it would warn of their absence.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tqdm.auto  # noqa: F401

if TYPE_CHECKING:
    import pandas as pd

    from inference.checks.calibration import Calibration

__all__ = ["Callback", "Run", "ZooWarning"]
__all__ += ["BadInput", "BadSetting", "CannotWrite", "Fault", "Locked", "MissingInput"]
__all__ += ["MissingRun", "Refused", "UsageError"]
__all__ += ["calibrate", "check", "compare", "gradients", "load", "main", "report", "resume"]
__all__ += ["run"]

# -- the commands -------------------------------------------------------------------------------


def _called(verb: Callable, typed: Typed) -> None:
    """Call a verb and show what it gives, if anything: a table, or words."""
    result = typed.calls(verb)
    if typed.json:
        print(json.dumps(rows_of(result) if hasattr(result, "iterrows") else result))
    elif hasattr(result, "iterrows"):
        from inference.show import terminal

        terminal.show_table(terminal.console(), result)
    elif result is not None:
        _say(str(result))


def _list(typed: Typed) -> None:
    rows = typed.calls(listed)
    if typed.json:
        print(json.dumps(rows))
    else:
        for line in lines_of(rows) if rows else [f"no {typed.get('kind')} yet"]:
            _say(line)


def show(model_or_run: str) -> None:
    """A model's maths, options and methods, or a saved run.

    Args:
        model_or_run: a model's name (see list), a file of yours (.py), or a run's folder.
    """
    folder = Path(model_or_run)
    if not (folder / "run.json").is_file():
        for line in described(model_or_run):
            _say(line)
    else:
        _show_saved(folder)


def _show_saved(folder: Path) -> None:
    """What the record of a run says of it, and its numbers where it has a result."""
    from inference.show import terminal
    from inference.storage import saved
    from inference.storage.record import read_record
    from inference.workflow import calibrate as calibrations

    record = read_record(folder)
    if "verdict" not in record:
        _say(state_of({**record, "status": saved.status(folder, record)}))
        _say(f"continue it with `zoo.py resume {folder}`")
    elif "calibration" in record:
        terminal.show_calibration(calibrations.saved(folder))
    else:
        result = load(folder)
        terminal.show_run(result.record, result.summary())


def _run(typed: Typed) -> int:
    started = time.perf_counter()
    with heeding(signal.SIGINT, signal.SIGTERM, heed=_leave):
        given = typed.arguments(run).arguments
        asked = {name: given[name] for name in Request.__dataclass_fields__ if name in given}
        named = columns(given.get("target"), given.get("features"))
        plan = running.plan_of(Request(**asked, columns=named))
    if "method" not in typed.given and not typed.json:
        guided = f" --guide {plan.guide}" if plan.guide and "guide" not in typed.given else ""
        _say(f"no --method given: {plan.method}{guided}", file=sys.stderr)
    out = typed.get("out")
    return _ended(running.carried_out(plan, _watch(typed), started, out), typed)


def _resume(typed: Typed) -> int:
    from inference.storage.record import read_record

    folder = Path(typed.given["folder"])
    if read_record(folder)["status"] == "done":
        _say(f"{typed.given['folder']} was done already, this is its result", file=sys.stderr)
    given = {name: typed.get(name) for name in ("model", "guide", "data")}
    done = resuming.resumed(folder, given, _watch(typed))
    return (_ended if isinstance(done, Run) else _calibration_ended)(done, typed)


def _watch(typed: Typed) -> Watch:
    """What a run of the command line shows."""
    show = _show_json if typed.json else _show_result
    return Watch(progress=typed.progress, show=show, jobs=typed.get("jobs") or 1)


def _show_result(run: Run) -> None:
    from inference.show import terminal

    with suppress(BrokenPipeError):  # nobody reads on: the run is saved all the same
        terminal.show_run(run.record, run.summary())
        sys.stdout.flush()  # the answer is there; the pictures take a while


def _show_json(run: Run) -> None:
    print(json.dumps(run.to_json()))


def _ended(run: Run, typed: Typed) -> int:
    """The last words and the exit code of a run on the command line."""
    if not typed.json:
        _say(f"saved in {run.path}")
    if run.record["status"] == "done":
        return 3 if typed.flags["strict"] and run.verdict.status == "fail" else 0
    reason = next(str(f.what) for f in run.verdict.findings if f.level == "fail")
    code = 70 if run.record["status"] == "failed" else 128 + run.record["signal"]
    fix = f"continue it with `zoo.py resume {run.path}`"
    return _fail(f"{reason}, in {run.path}; {fix}", code, typed.flags["verbose"])


def _compare(typed: Typed) -> int:
    from inference.show import terminal
    from inference.storage import files

    out = typed.get("out")
    files.check_writable(Path(out))
    table = typed.calls(compare, out=out)
    if typed.json:
        print(json.dumps(table.to_json_object()))
    elif "sizes" in typed.given:
        terminal.show_growth(table, table.notes)
    else:
        terminal.show_comparison(table)
    if table.signal:
        return _fail("interrupted; what was done is saved", 128 + table.signal, False)
    return 0


def _check(typed: Typed) -> int:
    from inference.show import terminal

    if "sbc" in typed.given and typed.flags["gradients"] is not None:
        raise UsageError("check takes one of --sbc and --gradients; leave the other out")
    if "sbc" in typed.given:
        return _calibration_ended(typed.calls(calibrate), typed)
    if typed.flags["gradients"] is not None:
        table = typed.calls(gradients, draws=typed.flags["gradients"])
        _show_table(table, typed, terminal.show_gradients)
        return 0
    if "method" in typed.given:
        raise UsageError("--method asks whether it is calibrated; say by --sbc N how many fits")
    report = typed.calls(check)
    if typed.json:
        print(json.dumps(report.to_json()))
    else:
        terminal.show_checks(report)
    if typed.flags["verbose"]:
        terminal.show_tracebacks(report)
    return 0 if report.ok else _fail(report.failure, 65, False)


def _calibration_ended(table: Calibration, typed: Typed) -> int:
    """A calibration as the command line shows it, and its exit code."""
    from inference.show import terminal

    _show_table(table, typed, terminal.show_calibration)
    if table.signal:
        return _fail("interrupted; resume it to go on", 128 + table.signal, False)
    return 0 if table.verdict.status == "pass" else _fail(table.verdict.reasons[0], 65, False)


def _show_table(table: Any, typed: Typed, show: Callable[[Any], None]) -> None:
    if typed.json:
        print(json.dumps(table.to_json_object()))
    else:
        show(table)


def _of_rows(verb: str, typed: Typed) -> None:
    """What a saved run says of rows, on the terminal and in a file."""
    from inference.show import terminal
    from inference.storage import files

    out = Path(typed.flags["out"]) if typed.flags["out"] else None
    if out is not None and out.suffix not in (".csv", ".json"):
        raise UsageError(f"--out {out} is neither .csv nor .json; name it so")
    of_run = {name: typed.given[name] for name in _OF_RUN if name in typed.given}
    rest = {name: value for name, value in typed.given.items() if name not in _OF_RUN}
    table = replace(typed, given=rest).calls(getattr(load(**of_run), verb))
    if out is not None:
        text = table.to_csv() if out.suffix == ".csv" else json.dumps(rows_of(table), indent=1)
        files.write_text(out, text)
        _say(f"wrote {len(table)} rows to {out}", file=sys.stderr)
    if verb == "evidence":
        _show_evidence(table, typed)
    elif typed.json:
        print(json.dumps(rows_of(table)))
    else:
        terminal.show_table(terminal.console(), table)


# The arguments of `load`, by which a saved run is read again.
_OF_RUN = ("folder", "model", "guide")


def _show_evidence(table: pd.DataFrame, typed: Typed) -> None:
    from inference.rows import encoder
    from inference.show import terminal

    summary, doubts = encoder.summary(table), encoder.concerns(table)
    if typed.json:
        print(json.dumps({"summary": rows_of(summary), "doubts": doubts}))
    else:
        terminal.show_evidence(summary, doubts)


def _report(typed: Typed) -> None:
    out, folders = typed.get("out"), typed.get("run") or ()
    typed.calls(report, out=out)
    for of, why in ((is_study, "being no single runs"), (has_no_result, "without a result")):
        left_out = [Path(folder).name for folder in folders if of(folder)]
        if left_out:
            _say(f"left out, {why}: {', '.join(left_out)}", file=sys.stderr)
    _say(f"wrote {out}")


def _clean(typed: Typed) -> None:
    done = "would remove" if typed.get("dry_run") else "removed"
    path = None
    for path in typed.calls(clean):
        _say(f"{done} {path}")
    if path is None:
        _say("there is nothing to remove")


def new(name: str) -> None:
    """A model file and its test from a template.

    Args:
        name: name of a model of the zoo, or FOLDER/NAME.py.
    """
    from models.users import template

    for path in template.write(name):
        _say(f"wrote {path}")


# -- the parser ---------------------------------------------------------------------------------

_WORDS = "Models of Bayesian deep learning, every inference on every model."
_RUNS = {"out": "runs"}
_JSON = flag("--json", help="one JSON object on stdout")
_QUIET = flag("-q", "--quiet", help="no progress")
_STRICT = flag("--strict", help="exit with 3 if the verdict is fail")
_FILE = Option(("--out",), {"metavar": "FILE", "help": "write all rows to a .csv or .json file"})
_GRADIENTS = Option(
    ("--gradients",),
    {"type": int, "metavar": "N", "help": "noise and bias of gradients, by N draws"},
)
_CHECKED = "Is a model sound; with --sbc, is its inference calibrated"

COMMANDS = {
    "list": Command(_list, [listed], [_JSON]),
    "show": Command(partial(_called, show), [show]),
    "run": Command(_run, [run], [_JSON, _QUIET, _STRICT], _RUNS),
    "resume": Command(_resume, [resume], [_JSON, _QUIET, _STRICT]),
    "compare": Command(_compare, [compare], [_JSON, _QUIET], _RUNS),
    "check": Command(
        _check,
        [check, calibrate, gradients],
        [_GRADIENTS, _JSON, _QUIET],
        _RUNS,
        apart=["draws"],
        title=_CHECKED,
    ),
    "predict": Command(
        partial(_of_rows, "predict"), [load, Run.predict], [_FILE, _JSON], apart=["guide"]
    ),
    "encode": Command(
        partial(_of_rows, "encode"), [load, Run.encode], [_FILE, _JSON], apart=["draws", "seed"]
    ),
    "evidence": Command(
        partial(_of_rows, "evidence"), [load, Run.evidence], [_FILE, _JSON, _QUIET]
    ),
    "report": Command(_report, [report], defaults={"out": "report.html"}),
    "clean": Command(_clean, [clean]),
    "new": Command(partial(_called, new), [new]),
}


# -- from the command line to an exit code ------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever called
            setattr(sys, name, io.StringIO())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows ASCII only
    try:
        os.getcwd()
    except FileNotFoundError:  # libraries end the process on this, with messages of their own
        return _fail("the current folder is gone; change to another", 66, False)
    with warnings.catch_warnings(), ours_alone(), heeding(signal.SIGTERM, heed=_stop):
        warnings.showwarning = _warn
        return _guarded(argv)


def _stop(number: int, _: Any) -> NoReturn:
    raise Stopped(number)


def _leave(number: int, _: Any) -> NoReturn:
    """End on the spot: an import that is cut short by an exception ends in odd errors."""
    print("error: interrupted, nothing was saved; run it again", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as a user of the command line reads it."""
    _say(f"warning: {message}", file=sys.stderr)


def _guarded(argv: list[str] | None) -> int:
    """The exit code of a command; what goes wrong in it becomes one line."""
    verbose = False
    try:
        typed = parsed(argv, COMMANDS, _WORDS, like=run)
        verbose = typed.flags["verbose"]
        code = typed.command.act(typed) or 0
        sys.stdout.flush()
        return code
    except Fault as fault:
        return _fail(str(fault), fault.exit_code, verbose)
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one now would end in a traceback
        reason = str(stop) or "interrupted, nothing was saved; run it again"
        return _fail(reason, 128 + getattr(stop, "signal", 2), verbose)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _fail(*system_errors.described(error), verbose)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return _fail(f"{reason}; run with -v for the traceback", 70, verbose)


def _say(*words: str, file: Any = None, sep: str = " ") -> None:
    """Words for a person, of which none steers the terminal."""
    print(plain(sep.join(words)), file=file)


def _fail(message: str, code: int, verbose: bool) -> int:
    if verbose and sys.exc_info()[0] is not None:
        import traceback

        _say(traceback.format_exc(), file=sys.stderr)
    _say(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def command() -> NoReturn:
    """The command line of a process of its own, which ends with the exit code."""
    # To search for garbage while libraries are imported, and at the end, took most of a second.
    gc.set_threshold(10_000)
    code = main()
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    command()
