"""Bad input and faults as the contract wants them: the exit code, one line, earlier runs intact.

By default the commands of `faults.TABLE` and `faults.NOTES` run inside this process, and a few of
the rest as real ones; `-m "slow or not slow"` runs every one as a process of its own, and writes
them all to `build/faults.md` (or to `$ZOO_FAULT_TABLE`).
"""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import scene as scenes
from conftest import UNESCAPED
from faults import CALLS, COIN, FILES, LINES, MEAN, NOTES, ROWS, SLOW_LINES, SPOILED, TABLE
from spoils import MARKER, SPOILS, settled

import zoo
from inference.core.compiled import c_compiler
from inference.storage.record import FORMAT
from inference.storage.state import last_step
from models.contract import BadSetting, Refused, UsageError

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
HOW = ["here", pytest.param("run", marks=pytest.mark.slow)]
NUTS = ["run", "linear", "--method", "nuts", "-q", "--set", "draws=100000", "warmup=50"]
NUTS += ["metric=diagonal", "workers=2"]
# Chains that are threads of one process are faster.
NATIVE = [word.replace("draws=100000", "draws=1000000") for word in NUTS]
# Neither level nor over soon.
SVI = ["run", "linear", "--guide", "mvn", "-q", "--set", "steps=1000000", "lr=0.00001"]
SHORT = ["coin", "--method", "nuts", "--set", "draws=4000", "warmup=200", "workers=2"]


@pytest.fixture(scope="session")
def earlier(tmp_path_factory):
    """A run with every kind of file, made before anything went wrong."""
    folder = tmp_path_factory.mktemp("earlier")
    return zoo.run("coin", method="laplace", data="HHT", draws=50, out=folder).path


@pytest.fixture
def scene(tmp_path, earlier, monkeypatch, record_property, capsys):
    monkeypatch.chdir(tmp_path)
    kept = scenes.furnish(tmp_path, earlier)
    return scenes.Scene(tmp_path, kept, record_property, capsys.readouterr)


# -- bad input ---------------------------------------------------------------------------------


def name_of(case):
    return " ".join(case.words)[:70]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", TABLE, ids=name_of)
def test_faults_get_their_code_and_one_line_and_leave_nothing(case, how, scene):
    done = getattr(scene, how)(*case.words)
    scene.judge(case.row, done, case.code, case.message, leaves=0)
    assert done.stdout == ""


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", NOTES, ids=name_of)
def test_odd_but_usable_input_runs_and_says_what_is_odd(case, how, scene):
    scene.judge(case.row, getattr(scene, how)(*case.words), 0, case.message, leaves=1)


@pytest.fixture(scope="session")
def of_user(tmp_path_factory):
    """A run of a user's model and guide, which are in files, before anything was done to it."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("user.py", "helper.py", "width.txt", "guide.py", "one.json"):
        (folder / name).write_text(FILES[name])
    asked = {"method": "svi", "guide": folder / "guide.py", "data": folder / "one.json"}
    return zoo.run(folder / "user.py", **asked, steps=50, draws=50, out=folder / "runs").path


def spoiled_id(case):
    return f"{case.what}: {name_of(case)}"


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", SPOILED, ids=spoiled_id)
def test_a_run_that_something_was_done_to(case, how, scene, of_user):
    run = settled(of_user, scene.folder)
    places = {"run": str(run), "runs": str(run.parent)}
    SPOILS[case.what](scene.folder, run)
    outside = beside(run)
    scene.others.update(run.parent.glob(".*"))
    done = getattr(scene, how)(*(word.format(**places) for word in case.words))
    message = case.message.format(**places)
    scene.judge(case.row, done, case.code, message, leaves=0, what=case.what)
    assert not (scene.folder / MARKER).exists(), "a planted command was run"
    assert beside(run) == outside
    page = scene.folder / "page.html"
    assert not page.exists() or not [word for word in UNESCAPED if word in page.read_text()]


def beside(run):
    """What lies outside the run, and behind links, and must stay as it is."""
    folders = [run.parent.parent / "outside", *run.parent.glob(".*")]
    files = [run.parent.parent / "outside"] if folders[0].is_file() else []
    kept = [(str(f), sorted(scenes.contents(f).items())) for f in folders if f.is_dir()]
    return kept, [(str(f), f.read_bytes()) for f in files]


@linux
@pytest.mark.parametrize(
    "case",
    [*LINES, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW_LINES)],
    ids=lambda case: case.line[:70],
)
def test_places_that_are_not_as_usual(case, scene):
    scene.judge(case.row, scene.shell(case.line), case.code, case.message)


@pytest.mark.parametrize("case", CALLS, ids=lambda case: f"{case.verb} {case.given}"[:70])
def test_arguments_of_odd_kinds_given_in_python(case, scene):
    what = f"in Python, zoo.{case.verb}('coin', {case.given})"
    try:
        getattr(zoo, case.verb)("coin", **case.given)
        code, said = 0, ""
    except (UsageError, BadSetting) as refused:
        code, said = refused.exit_code, f"error: {refused}\n"
    done = subprocess.CompletedProcess(["here"], code, "", said)
    scene.judge(case.row, done, case.code, case.message, leaves=0, what=what)


def test_every_row_of_the_contract_has_a_scenario():
    text = Path(__file__).read_text()
    in_tables = {case.row for case in [*TABLE, *NOTES, *SPOILED, *LINES]}
    assert set(re.findall(r'judge\(\s*"(\w+)"', text)) | in_tables == set(ROWS)


@pytest.mark.slow
def test_number_types_make_no_difference(scene):
    y = np.array([0, 1, 1, 0, 1])
    (scene.folder / "whole.json").write_text(json.dumps({"y": y.tolist()}))
    (scene.folder / "bool.json").write_text(json.dumps({"y": y.astype(bool).tolist()}))
    np.savez(scene.folder / "single.npz", y=y.astype(np.float32))
    modes = []
    for name in ("whole.json", "bool.json", "single.npz"):
        done = scene.run("run", "bernoulli.py", "--method", "map", "--json", "--data", name)
        scene.judge("types", done, 0, '"status": "pass"')
        modes.append(json.loads(done.stdout)["point"]["p"])
    assert modes == pytest.approx([0.6] * 3, abs=1e-12)


def test_number_types_given_in_python_make_no_difference(scene):
    y = np.array([0, 1, 1, 0, 1])
    sources = [{"y": y}, {"y": y.astype(bool)}, {"y": y.astype(float)}]
    runs = [zoo.run("bernoulli.py", method="map", data=source) for source in sources]
    assert [run.record["point"]["p"] for run in runs] == pytest.approx([0.6] * 3, abs=1e-12)


# -- a run that fails on its way ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("lr", ["1e3", "1e9"])
def test_an_ascent_that_diverges_at_once_tells_the_step(lr, scene):
    done = scene.run("run", "linear", "--guide", "normal", "--set", f"lr={lr}")
    scene.judge("diverges", done, 70, "is not finite in step ")


@pytest.mark.slow
def test_an_ascent_that_diverges_later_keeps_its_last_good_state(scene):
    words = ["--guide", "normal", "--data", "far.json", "--set", "steps=5000", "lr=0.1"]
    done = scene.run("run", "cliff.py", *words)
    scene.judge("diverges", done, 70, "; kept is the state after step ", leaves=1)
    run = zoo.load(scene.new_run())
    assert run.record["status"] == "failed" and run.verdict.status == "fail"
    assert 5 < float(run.idata["posterior"]["x"].mean()) < 20


# -- signals and kills -------------------------------------------------------------------------


def told(scene):
    """The last step that the new run's journal tells of; None before the first."""
    runs = scene.new_runs()
    return last_step(runs[0] / "progress.jsonl") if runs else None


def steps(scene):
    """The steps of the two chains that are running."""
    step = told(scene)
    return step["chains"][:2] if step else [0]


@pytest.fixture(params=["native", "traced"])
def sampling(request, scene):
    """`run linear` whose two chains are past their warm-up, and their process ids if they have."""
    native = request.param == "native"
    if native and c_compiler() is None:
        pytest.skip("there is no C compiler")
    process = scene.start(*(NATIVE if native else [*NUTS, "compile=traced"]))
    chains = [] if native else scenes.children(process, 2)
    scenes.wait_for(process, lambda: min(steps(scene)) > 100)
    yield process, chains
    process.kill()
    process.communicate()


@linux
@pytest.mark.parametrize("sampling", ["traced"], indirect=True)
def test_a_command_whose_chain_is_killed_fails_and_keeps_the_others(scene, sampling):
    process, chains = sampling
    os.kill(chains[1], signal.SIGKILL)
    done = scenes.finished(process)
    scene.judge(
        "chain",
        done,
        70,
        "chain 2 died (signal 9); kept are ",
        leaves=1,
        what="SIGKILL of chain 2",
    )
    run = zoo.load(scene.new_run())
    assert run.verdict.status == "fail" and run.record["status"] == "failed"
    assert run.idata["posterior"].sizes["draw"] > 10
    assert not any(os.path.exists(f"/proc/{pid}") for pid in chains)


SIGNALS = [
    (signal.SIGINT, 130),
    pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
]


@linux
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_chains_that_are_interrupted_keep_what_is_done(scene, sampling, number, code):
    process, _ = sampling
    process.send_signal(number)
    scene.judge(
        "signal",
        scenes.finished(process),
        code,
        "interrupted; kept are ",
        leaves=1,
        what=number.name,
    )
    run = zoo.load(scene.new_run())
    assert run.record["status"] == "interrupted"
    assert np.isfinite(run.idata["posterior"]["w"].values).all()
    assert run.idata["sample_stats"]["diverging"].shape == run.idata["posterior"]["b"].shape


@linux
@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_ascent_that_is_interrupted_keeps_what_is_done(scene, number, code):
    process = scene.start(*SVI)
    scenes.wait_for(process, lambda: told(scene) is not None)
    process.send_signal(number)
    done = scenes.finished(process)
    scene.judge("signal", done, code, "interrupted after ", leaves=1, what=number.name)
    run = zoo.load(scene.new_run())
    assert run.record["status"] == "interrupted" and run.params


@linux
@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_stops_at_once(scene, sampling, number, code):
    process, chains = sampling
    process.send_signal(number)
    time.sleep(0.3)
    process.send_signal(number)
    began = time.monotonic()
    what = f"{number.name} twice"
    scene.judge("signal", scenes.finished(process), code, "interrupted", what=what)
    assert time.monotonic() - began < 5
    assert not any(os.path.exists(f"/proc/{pid}") for pid in chains)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("after", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_ctrl_c_at_any_moment_is_one_line(scene, after):
    process = scene.start("run", "linear", "--guide", "mvn", "-q")
    maps = Path(f"/proc/{process.pid}/maps")
    scenes.wait_for(process, lambda: "libtorch" in maps.read_text())
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    what = f"SIGINT {after:g} s after torch began to load"
    scene.judge("signal", scenes.finished(process), 130, "interrupted", what=what)


@linux
@pytest.mark.slow
def test_chains_whose_parent_is_killed_end_too_and_the_run_can_be_resumed(scene, sampling):
    process, chains = sampling
    process.kill()
    deadline = time.monotonic() + 5
    while any(os.path.exists(f"/proc/{pid}") for pid in chains):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    listed = scene.run("list", "runs")
    scene.judge("killed", listed, 0, "interrupted", leaves=1, what="SIGKILL while sampling")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["native", "traced"])
def test_a_run_that_was_killed_is_resumed_to_the_same_draws(scene, how):
    words = [*SHORT, f"compile={how}"]
    path = scene.killed(*words)
    scene.judge("killed", scene.run("show", str(path)), 0, "resume", what="SIGKILL at its start")
    scene.judge("killed", scene.run("resume", str(path)), 0, f"saved in {path}")
    whole = scene.run("run", *words, "--out", "whole")
    scene.judge("killed", whole, 0, "saved in")
    (uninterrupted,) = (scene.folder / "whole").iterdir()
    ours, theirs = (zoo.load(p).idata["posterior"]["pi"].values for p in (path, uninterrupted))
    assert np.array_equal(ours, theirs)


# -- where nothing can be written --------------------------------------------------------------


def closed(folder):
    """A folder that may be read and not written."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o555)
    code = f"open({str(folder / 'x')!r}, 'w')"
    tried = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=scenes.as_a_plain_user, capture_output=True
    )
    if tried.returncode == 0:
        pytest.skip("permissions do not bind this user")
    return folder.name


def test_a_folder_that_is_read_only(scene):
    words = [*COIN, "--out", closed(scene.folder / "closed")]
    done = scene.run(*words, before=scenes.as_a_plain_user)
    scene.judge("disk", done, 73, "cannot write the run", leaves=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["predict", "{run}", "--out", "{closed}/p.csv"],
        ["report", "{run}", "--out", "{closed}/r.html"],
        ["compare", "coin", "--methods", "map,exact", "--out", "{closed}"],
        ["new", "{closed}/mine.py"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_that_writes_tells_a_read_only_folder(words, scene):
    places = {"run": f"runs/{scene.earlier.name}", "closed": closed(scene.folder / "closed")}
    words = [word.format(**places) for word in words]
    done = scene.run(*words, before=scenes.as_a_plain_user)
    scene.judge("disk", done, 73, "cannot write", leaves=0)


def no_larger_than(size):
    """In a new process: files end at so many bytes, as on a full disk."""
    import resource

    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@linux
@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 2000, 15000, 50000])
def test_a_disk_that_is_full_after_so_many_bytes(size, scene):
    done = scene.run(*COIN, before=no_larger_than(size))
    scene.judge("disk", done, 74, "cannot write", what=f"files of {size} bytes at most")
    for path in scene.new_runs():  # complete but for its pictures, or known not to be
        try:
            assert zoo.load(path).idata["posterior"]["pi"].size == 50
        except Refused as refused:
            assert "resume" in str(refused)


@linux
@pytest.mark.slow
def test_a_run_that_found_the_disk_full_goes_on_when_there_is_room(scene):
    words = ["run", "coin", "--method", "laplace", "--set", "draws=4000"]
    done = scene.run(*words, before=no_larger_than(15000))
    scene.judge("disk", done, 74, "resume", leaves=1, what="files of 15000 bytes at most")
    path = scene.new_run()
    scene.judge("disk", scene.run("resume", str(path)), 0, "saved in")
    assert zoo.load(path).idata["posterior"]["pi"].size == 4000


@linux
@pytest.mark.slow
@pytest.mark.parametrize("size", ["16k", "64k"])
def test_a_small_disk(size, scene):
    disk = scene.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        done = scene.run(*COIN, "--out", "disk")
        scene.judge("disk", done, 74, "cannot write", what=f"a disk of {size}")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@linux
@pytest.mark.slow
def test_an_answer_that_cannot_be_printed(scene):
    with open("/dev/full", "w") as full:
        done = scenes.finished(scene.start("list", "--json", stdout=full))
    scene.judge("disk", done, 74, "No space left", what="stdout is full")


# -- damaged and forged runs -------------------------------------------------------------------


def parts_of(run):
    """The files that make up a result: the log is none."""
    parts = (p for p in run.rglob("*") if p.is_file() and p.suffix != ".jsonl")
    return sorted(str(p.relative_to(run)) for p in parts if p.suffix)


def flipped(content, rng):
    """The bytes with one bit turned at a random place."""
    changed = bytearray(content)
    changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(scene):
    rng, copy = np.random.default_rng(0), scene.copy()
    whole = json.loads((copy / "run.json").read_text())
    for name in parts_of(copy):
        content = (copy / name).read_bytes()
        for _ in range(20):
            (copy / name).write_bytes(flipped(content, rng))
            try:
                zoo.load(copy)
            except Refused:
                continue
            # The e of 1e-5 may become an E.
            assert name == "run.json" and json.loads((copy / name).read_text()) == whole
        (copy / name).write_bytes(content)
    zoo.load(copy)


PARTS = ["run.json", "idata.nc", "params.safetensors", "metrics.json", "figures/marginals.png"]


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_part_of_a_run_is_refused(part, scene):
    rng, copy = np.random.default_rng(1), scene.copy()
    content = (copy / part).read_bytes()
    foreign = (copy / ("idata.nc" if part != "idata.nc" else "run.json")).read_bytes()
    damaged = {"a bit flipped": flipped(content, rng), "cut in half": content[: len(content) // 2]}
    damaged |= {"empty": b"", "another file": foreign}
    for what, changed in damaged.items():
        (copy / part).write_bytes(changed)
        done = scene.run("show", str(copy))
        scene.judge("damage", done, 65, "run it again", what=f"{part} {what}")
    if part != "run.json":
        (copy / part).unlink()
        done = scene.run("show", str(copy))
        scene.judge("damage", done, 65, f"{part} is missing", what=f"{part} gone")


@pytest.mark.slow
@pytest.mark.parametrize("content", ["[]", "{}", "null", '{"format": 1}', '"x"', "\x00"])
def test_a_record_that_is_none_does_not_hide_the_other_runs(content, scene):
    (scene.folder / "runs" / "other").mkdir()
    (scene.folder / "runs" / "other" / "run.json").write_text(content)
    what = f"run.json is {content!r}"
    scene.judge("damage", scene.run("list", "runs"), 0, "runs/other", what=what)
    scene.judge("damage", scene.run("show", "runs/other"), 65, "run it again", what=what)


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.fixture
def planted(scene):
    """A place that must stay empty, and the pickle that would fill it."""
    marker = scene.folder / "planted"
    yield pickle.dumps(Payload(marker))
    assert not marker.exists(), "a planted command was run"


def test_a_pickle_among_the_data_is_not_run(scene, planted):
    np.savez(scene.folder / "evil.npz", y=np.array([Payload(scene.folder / "planted")]))
    done = scene.run("run", "mean.py", "--method", "map", "--data", "evil.npz")
    scene.judge("pickle", done, 65, "no readable NPZ file of plain arrays", leaves=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evil.pt", "evil.pkl", "evil.json", "evil.csv", "evil.npz"])
def test_a_pickle_in_place_of_the_data_is_not_run(name, scene, planted):
    (scene.folder / name).write_bytes(planted)
    done = scene.run("run", "mean.py", "--method", "map", "--data", name)
    scene.judge("pickle", done, 65, name, leaves=0)


# What a coin's run is not read from.
NOT_READ = ["metrics.json", "data.npz"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        "params.safetensors",
        "idata.nc",
        *NOT_READ,
    ],
)
@pytest.mark.parametrize("verb", ["show", "predict"])
def test_a_pickle_in_a_run_whose_hashes_were_forged_is_not_run(part, verb, scene, planted):
    copy = scene.copy()
    scenes.forge(copy, {part: planted})
    code, message = (0, "mean") if part in NOT_READ else (65, part)
    done = scene.run(verb, str(copy))
    scene.judge("pickle", done, code, message, what=f"a pickle as {part}, hashes forged")


@pytest.mark.parametrize("verb", ["show", "predict"])
def test_a_link_out_of_a_run_whose_hashes_were_forged_is_not_followed(verb, scene):
    copy = scene.copy()
    with h5py.File(copy / "idata.nc", "a") as file:
        file["posterior/planted"] = h5py.ExternalLink("/etc/hostname", "/x")
    scenes.forge(copy, {"idata.nc": (copy / "idata.nc").read_bytes()})
    done = scene.here(verb, str(copy))
    what = "a link to another place"
    scene.judge("stranger", done, 65, f"/posterior/planted is {what}", what=f"{what} in idata.nc")


@pytest.mark.slow
def test_a_run_is_shown_without_running_the_model_that_it_names(scene):
    copy = scene.copy()
    evil = copy / "evil.py"
    evil.write_text(f"open({str(scene.folder / 'planted')!r}, 'w')\n{MEAN}")
    scenes.forge(copy, model=str(evil))
    done = scene.run("show", str(copy))
    scene.judge("pickle", done, 0, "mean", what="a model planted in the run")
    assert not (scene.folder / "planted").exists()


# -- others ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_of_another_format_names_both(scene):
    copy = scene.copy()
    scenes.forge(copy, format=99)
    expected = f"has format 99, this zoo reads {FORMAT}"
    scene.judge("other", scene.run("show", str(copy)), 65, expected, what="another format")


@pytest.mark.slow
def test_another_model_or_other_data_are_refused_naming_both(scene):
    model, data = scene.folder / "mean.py", scene.folder / "uneven_y.json"
    words = ["mean.py", "--data", data.name, "--method", "nuts", "--set", "draws=20000"]
    path = scene.killed(*words)
    data.write_text('{"y": [1.5, 2.6]}')
    said = "changed since the run ("
    scene.judge("other", scene.run("resume", str(path)), 65, said, what="other data")
    data.write_text('{"y": [1.5, 2.5]}')
    model.write_text(MEAN.replace("2.0", "3.0"))
    done = scene.run("resume", str(path))
    scene.judge("other", done, 65, f"the model {said}", what="another model")
    model.write_text(MEAN)
    versions = json.loads((path / "run.json").read_text())["versions"]
    scenes.forge(path, versions={**versions, "torch": "1.0"})
    done, said = scene.run("resume", str(path)), "begun with torch 1.0, here is 2."
    scene.judge("other", done, 65, said, what="another torch")


@pytest.mark.slow
def test_predictions_by_another_model_are_refused_naming_both(scene):
    done = scene.run("run", "mean.py", "--method", "map", "--data", "uneven_y.json")
    scene.judge("other", done, 0, "saved in", leaves=1)
    (scene.folder / "mean.py").write_text(MEAN.replace("2.0", "3.0"))
    said = "the model changed since the run ("
    done = scene.run("predict", str(scene.new_run()))
    scene.judge("other", done, 65, said, what="another model")


@pytest.mark.slow
def test_a_second_writer_is_sent_away_and_readers_are_not(scene):
    lock = pytest.importorskip("filelock").FileLock
    path = scene.killed(*SHORT)
    with lock(path / ".lock"), lock(scene.earlier / ".lock"):
        done = scene.run("resume", str(path))
        scene.judge("writers", done, 75, "another process", what="locked")
        scene.judge("writers", scene.run("clean", str(path)), 75, "another", what="locked")
        scene.judge("writers", scene.run("list", "runs"), 0, "running", what="locked")
        done = scene.run("show", str(scene.earlier))
        scene.judge("writers", done, 0, "coin laplace", what="locked")
    scene.judge("writers", scene.run("resume", str(path)), 0, "saved in")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a b;c$(touch x).py", "-v.py", "ä|ö.py", "...py", "..py"])
def test_odd_names_of_files_stay_inside_the_folder_of_runs(name, scene):
    (scene.folder / "models").mkdir()
    (scene.folder / "models" / name).write_text(MEAN)
    before = set(scene.folder.iterdir())
    words = [f"models/{name}", "--method", "map", "--data", "one.json"]
    (scene.folder / "one.json").write_text('{"y": [1.0, 2.0]}')
    done = scene.run("run", *words)
    if name.startswith(".."):
        scene.judge("names", done, 73, "is no name for a folder", leaves=0)
    else:
        scene.judge("names", done, 0, "saved in", leaves=1)
        zoo.load(scene.new_run())
    assert set(scene.folder.iterdir()) == before


@pytest.mark.slow
def test_a_forged_record_does_not_reach_outside_its_folder(scene):
    copy = scene.copy()
    (scene.folder / "outside.json").write_text("{}")
    scenes.forge(copy, {"../../outside.json": b"{}"})
    done = scene.run("show", str(copy))
    scene.judge("names", done, 65, "outside.json", what="run.json names ../../outside.json")


@linux
@pytest.mark.parametrize("how", ["writable", "of someone else", "a link", "a file"])
@pytest.mark.parametrize("runner", HOW)
def test_a_cache_that_is_not_ours_is_not_used(how, runner, scene, monkeypatch):
    cache = scene.folder / "cache" / "bayeszoo"
    cache.mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    if how == "writable":
        cache.chmod(0o777)
    elif how == "a link":
        cache.rename(scene.folder / "elsewhere")
        cache.symlink_to(scene.folder / "elsewhere")
    elif how == "a file":
        cache.rmdir()
        cache.touch()
    elif os.getuid() == 0:
        os.chown(cache, 65534, 65534)
    else:
        pytest.skip("only root can give a folder away")
    words = ["run", "coin", "--set", "draws=20", "--method", "nuts"]
    done = getattr(scene, runner)(*words)
    said = "; set XDG_CACHE_HOME"
    scene.judge("cache", done, 65, said, leaves=0, what=f"the cache is {how}")


@linux
@pytest.mark.slow
def test_compiled_code_that_was_cut_short_is_compiled_again(scene):
    words = ["run", "coin", "--set", "draws=20", "--method", "nuts", "-q"]
    cache = str(scene.folder / "cache")
    scene.judge("cache", scene.run(*words, XDG_CACHE_HOME=cache), 0, "saved in", leaves=1)
    made = [path for path in (scene.folder / "cache" / "bayeszoo").iterdir() if path.is_file()]
    for path in made:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = scene.run(*words, XDG_CACHE_HOME=cache)
    scene.judge("cache", done, 0, "saved in", leaves=2, what="compiled code cut in half")
    assert made


@pytest.mark.slow
def test_sources_that_are_not_there_are_told_at_once(scene):
    began = time.monotonic()
    done = scene.run("run", "linear", "--data", "https://example.invalid/x.csv")
    assert time.monotonic() - began < 60
    scene.judge("absent", done, 66, "https://example.invalid/x.csv", leaves=0)
