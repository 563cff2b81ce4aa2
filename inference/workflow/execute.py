"""A planned run carried out: from a model's entry, its data and a method to a judged result.

An entry is the record of functions that a model's file ends with (`models.Entry`); nothing of the
models is imported here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from models.contract import Refused

from .. import method
from ..checks import baselines, check, posteriors, structure, vouch
from ..core import machine
from ..core.problem import Context, Finding, Fit
from ..core.seeds import FIT, PREDICTIVE, seeded
from ..core.user_code import of_error, of_function
from ..methods.training import trained_guide
from ..program import prepare, row_latents
from ..program.prepare import observed_keys, program_of
from ..program.program import Program
from ..results import diagnostics, groups, inference_data, loo, scores
from ..results.psis import metrics as metrics_of
from ..results.reference import truth_of
from ..rows import importance
from .plan import Learned, Plan

if TYPE_CHECKING:
    from torch import Tensor

    from ..results.diagnostics import Verdict
    from ..results.inference_data import InferenceData


class Result(NamedTuple):
    """What a run found: its record, draws, verdict and learned parameters."""

    record: dict[str, Any]
    groups: InferenceData
    verdict: Verdict
    params: dict[str, Tensor]


def _must_observe(entry: Any, program: Program) -> None:
    """A user's model that observes none of its data is a mistake, not a prior."""
    observes = program.of("observed") or program.has_factor
    if entry.free or program.problem.latent_keys or observes:
        return
    raise Refused(
        f"the model observes nothing, {of_function(entry.model)}; "
        "give a sample statement obs=..., or run --method prior"
    )


def _must_be_fitted(method: str, program: Program) -> None:
    """Parameters of the model's own have no prior: only svi can fit them."""
    if program.unfitted:
        names = _some(program.unfitted)
        raise Refused(
            f"the model has parameters of its own ({names}), which {method} cannot fit; use "
            "--method svi (and then --init RUN), or give them priors"
        )


def _must_have_densities(program: Program) -> None:
    """Refuse a distribution whose log density fails, naming its site.

    Not for a value that it forbids (ValueError): another start may be inside.
    """
    for site in program.of("latent", "observed"):
        try:
            with torch.no_grad():
                site.fn.log_prob(site.value)
        except (NotImplementedError, AttributeError, LookupError, NameError, TypeError) as error:
            first = str(error).partition("\n")[0]
            why = f"{type(error).__name__}: {first}" if first else type(error).__name__
            line = of_error(error) or program.line(site.name)
            raise Refused(
                f"{type(site.base).__name__} of {site.name} has no density ({why}), {line}; "
                "correct its log_prob, or use transforms with a log_abs_det_jacobian"
            ) from error


def _must_bear_gaps(program: Program) -> None:
    """Values that are missing are the model's own matter: it must have a density all the same."""
    tensors = program.problem.tensors.items()
    gaps = [k for k, v in tensors if isinstance(v, torch.Tensor) and v.isnan().any()]
    if not gaps:
        return
    with seeded(0, FIT):
        value, slope = program.density_and_gradient(program.random_start())
    if value.isnan() or slope.isnan().any():
        failing = "density" if value.isnan() else "gradient of the density"
        raise Refused(
            f"the {failing} is NaN, as values of {_some(gaps)} are, "
            f"{of_function(program.problem.model)}; mask them, poutine.mask(mask=~y.isnan()), "
            "and observe y.nan_to_num()"
        )


def _unplated(program: Program) -> list[Finding]:
    """A note on observations that lie in no plate, as `check` has it."""
    sites = program.of("observed")
    return [Finding("note", *words) for s in sites for words in structure.outside_plates(s)]


def _some(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _begun_by(program: Program, init: Learned) -> Program:
    """The program with the model's own parameters as an earlier run learned them.

    A guide that shares parameters with that run's (an encoder) begins with these.

    Raises:
        Refused: the model has none, or others than the run.
    """
    own = program.unfitted
    if not own:
        raise Refused("the model has no parameters of its own for --init to give; leave it out")
    missing = [name for name in own if name not in init.params]
    if missing:
        raise Refused(f"the run of --init has not learned {_some(missing)}; give one that has")
    dtype = torch.get_default_dtype()
    learned = {name: torch.as_tensor(init.params[name]).to(dtype) for name in own}
    return program.changed(params=learned, earlier=init.params)


def execute(plan: Plan, context: Context, record: Mapping[str, Any], started: float) -> Result:
    """The planned run, computed and judged.

    Args:
        plan: what was asked for.
        context: where it computes, and who is told.
        record: what is known of it before it begins.
        started: when it was asked for, `time.perf_counter`.

    Raises:
        Refused: the method has no answer for this model and these data.
        Fault: it failed on the way.
    """
    context.callbacks.on_start(record)
    with machine.numbers(plan.dtype):
        program = _program(plan)
        began = time.perf_counter()
        fit = _fit(plan, program, context)
        fitted = time.perf_counter()
        fit.findings += _notes(plan, program)
        whole = program.changed(params=fit.params, linear_at=fit.linear_at)
        shown = whole if fit.rows is None else whole.first(fit.rows)
        labels = {"model": plan.name, "method": plan.method, "guide": plan.guide or ""}
        idata = groups.to_inference_data(
            shown, fit, seed=plan.seed, **labels, seed_of_run=plan.seed
        )
        codes = _encoded(plan, whole, fit, idata)
        verdict, metrics = _judge(plan, shown, fit, idata, codes)
        content = _content(plan, program, fit, record)
    done = time.perf_counter()
    timing = {"load_s": began - started, "fit_s": fitted - began}
    timing |= {"judge_s": done - fitted, "total_s": done - started}
    content |= {"metrics": metrics, "exact": truth_of(fit.exact), "timing": timing}
    content |= {"verdict": verdict.to_json_object(), "given": verdict.given}
    content["findings"] = [finding.to_json_object() for finding in verdict.findings]
    return Result({**record, **content}, idata, verdict, fit.params)


def _program(plan: Plan) -> Program:
    """The program of a plan, which its method can answer as far as can be told beforehand."""
    program = program_of(plan.entry, plan.options, plan.data)
    if plan.init is not None:
        program = _begun_by(program, plan.init)
    if plan.kind.result != "prior":
        _must_observe(plan.entry, program)
    if not plan.kind.takes_guide:
        _must_be_fitted(plan.method, program)
    if plan.kind.result != "prior":
        _must_have_densities(program)
        _must_bear_gaps(program)
    if plan.kind.uses_density:
        check.prove(program)
    return program


def _fit(plan: Plan, program: Program, context: Context) -> Fit:
    """What the method gives, in the machine's main memory."""
    with machine.on(plan.device):
        placed = prepare.place(program.problem, plan.device)
        there = program if placed is program.problem else Program(placed)
        fit = method(plan.method)(there, seed=plan.seed, context=context, **plan.settings)
        fit = posteriors.turned(there, fit, plan.seed).on_cpu()
    fit.params = {**program.problem.params, **fit.params}
    return fit


def _notes(plan: Plan, program: Program) -> list[Finding]:
    """What there is to know of the problem, whatever came of it."""
    notes = []
    if plan.data.n == 0:
        notes.append(Finding("note", "there are no data, so this is the prior"))
    if undrawn := program.undrawn:
        gap = f"the distribution of {_some(undrawn)} has no sample(): nothing predicts it"
        notes.append(Finding("note", gap))
    return notes + _unplated(program)


def _judge(
    plan: Plan,
    program: Program,
    fit: Any,
    idata: InferenceData,
    codes: Mapping[str, float],
) -> tuple[Verdict, dict[str, float]]:
    """Verdict and metrics of a fit; adds what the model knows to its InferenceData."""
    entry, data = plan.entry, plan.data
    metrics = metrics_of(fit, idata, bool(program.improper()))
    left_out, findings = loo.judged(program.problem, fit, idata, metrics.get("khat"))
    fit.findings += findings + posteriors.separated(program, idata)
    metrics |= left_out | scores.scored(program, fit).added_to(idata) | dict(codes)
    if entry.results.original is not None and data.scaling is not None and fit.kind != "prior":
        inference_data.add_original(idata, lambda draws: entry.results.original(draws, data))
    checked = vouch.findings(program, fit, metrics, plan.seed)
    alike = partial(vouch.chains_predict_alike, program, fit, plan.seed)
    verdict = diagnostics.verdict(fit, idata, metrics, checked, alike)
    if fit.kind != "prior":
        view = inference_data.view(data, idata, fit.params, plan.options, metrics, fit.exact)
        if entry.results.metrics is not None:
            metrics = metrics | entry.results.metrics(view)
        if entry.results.caveats is not None:
            caveats = entry.results.caveats(replace(view, metrics=metrics))
            verdict = verdict.with_findings([Finding("warn", *caveat) for caveat in caveats])
    beside, findings = baselines.compared(program, idata)
    return verdict.with_findings(findings), metrics | beside


def _encoded(plan: Plan, program: Program, fit: Any, idata: InferenceData) -> dict[str, float]:
    """What an encoder makes of rows that were held out; of others, their codes alone."""
    trained = plan.kind.takes_guide and fit.trace is not None and fit.status != "failed"
    if not trained or not row_latents.has_weights(program):
        return {}
    in_force = trained_guide(program, plan.settings["guide"])
    with seeded(plan.seed, PREDICTIVE), in_force as guide:
        if not row_latents.encodes(program, guide):
            return {}
        return importance.scored(program, guide, plan.seed).added_to(idata)


def _content(plan: Plan, program: Program, fit: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json holds of the result, beside what it held from the beginning."""
    return {
        "status": fit.status,
        "signal": fit.signal,
        "settings": record["settings"] | fit.settings,
        "data": record["data"] | _data_seen(plan.data, program),
        "latent_keys": list(program.problem.latent_keys),
        "identified": program.problem.identified,
        "point": {k: v.tolist() for k, v in fit.point.items()},
        "linearised": fit.linear_at is not None,
    }


def _data_seen(data: Any, program: Program) -> dict[str, Any]:
    """The data of a run as the model saw them."""
    problem = program.problem
    return {
        "n": data.n if data.n is not None else problem.n,
        "rows": problem.rows,
        "shapes": {k: list(getattr(v, "shape", ())) for k, v in problem.tensors.items()},
        "predicted": _predicted(program),
        "units": {key: list(unit) for key, unit in data.units.items()},
    }


def _predicted(program: Program) -> list[str]:
    """The data keys that are observed (or latent): what a prediction does not need."""
    problem = program.problem
    return [*observed_keys(program.sites, problem.tensors).values(), *problem.latent_keys]
