"""A planned run carried out: from a model's entry, its data and a method to a judged result.

An entry is the record of functions that a model's file ends with (`models.Entry`); nothing of the
models is imported here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from models.contract import Refused, UsageError

from .. import method
from ..checks import baselines, circular, proofs, separable, structure, vouch
from ..checks.simulated import Simulated
from ..core import machine
from ..core.problem import Context, Finding, Problem
from ..core.seeds import FIT, PREDICTIVE, seeded
from ..core.user_code import of_error, of_function
from ..methods.ascent import AscentSettings
from ..methods.training import trained_guide
from ..program import prepare, row_latents
from ..program.prepare import observed_keys, problem_of
from ..program.program import Program
from ..results import diagnostics, inference_data, loo, scores
from ..rows import importance
from .plan import Learned, Plan

if TYPE_CHECKING:
    import arviz as az
    import pandas as pd
    from torch import Tensor

    from ..results.comparison import Table
    from ..results.diagnostics import Verdict


class Result(NamedTuple):
    """What a run found: its record, draws, verdict and learned parameters."""

    record: dict[str, Any]
    idata: az.InferenceData
    verdict: Verdict
    params: dict[str, Tensor]


def _must_observe(entry: Any, problem: Problem) -> None:
    """A user's model that observes none of its data is a mistake, not a prior."""
    program = Program(problem)
    if entry.free or problem.latent_keys or program.of("observed") or program.has_factor:
        return
    raise Refused(
        f"the model observes nothing, {of_function(entry.model)}; "
        "give a sample statement obs=..., or run --method prior"
    )


def _must_be_fitted(method: str, problem: Problem) -> None:
    """Parameters of the model's own have no prior: only svi can fit them."""
    unfitted = Program(problem).unfitted
    if unfitted:
        raise Refused(
            f"the model has parameters of its own ({_some(unfitted)}), which {method} cannot fit; "
            "use --method svi (and then --init RUN), or give them priors"
        )


def _must_have_densities(problem: Problem) -> None:
    """Refuse a distribution whose log density fails, naming its site.

    Not for a value that it forbids (ValueError): another start may be inside.
    """
    program = Program(problem)
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


def _must_bear_gaps(problem: Problem) -> None:
    """Values that are missing are the model's own matter: it must have a density all the same."""
    tensors = problem.tensors.items()
    gaps = [k for k, v in tensors if isinstance(v, torch.Tensor) and v.isnan().any()]
    if not gaps:
        return
    program = Program(problem)
    with seeded(0, FIT):
        value, slope = program.density_and_gradient(program.random_start())
    if value.isnan() or slope.isnan().any():
        what = "density" if value.isnan() else "gradient of the density"
        raise Refused(
            f"the {what} is NaN, as values of {_some(gaps)} are, {of_function(problem.model)}; "
            "mask them, poutine.mask(mask=~y.isnan()), and observe y.nan_to_num()"
        )


def _unplated(program: Program) -> list[Finding]:
    """A note on observations that lie in no plate, as `check` has it."""
    found = (structure.outside_plates(site) for site in program.of("observed"))
    return [Finding("note", *one) for one in found if one is not None]


def _some(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _begun_by(problem: Problem, init: Learned) -> Problem:
    """The problem with the model's own parameters as an earlier run learned them.

    A guide that shares parameters with that run's (an encoder) begins with these.

    Raises:
        Refused: the model has none, or others than the run.
    """
    own = Program(problem).unfitted
    if not own:
        raise Refused("the model has no parameters of its own for --init to give; leave it out")
    missing = [name for name in own if name not in init.params]
    if missing:
        raise Refused(f"the run of --init has not learned {_some(missing)}; give one that has")
    dtype = torch.get_default_dtype()
    learned = {name: torch.as_tensor(init.params[name]).to(dtype) for name in own}
    return replace(problem, params=learned, earlier=init.params)


def _precision(plan: Plan) -> str:
    """Single precision serves stochastic steps, weights that are not identified, and who asks.

    Raises:
        Refused: it is asked for, and the mode cannot be found in it.
    """
    stochastic = plan.method == "svi" or not plan.entry.identified
    if stochastic:
        return plan.data.dtype
    if "dtype" not in plan.asked["options"]:
        return "float64"
    if plan.data.dtype == "float32" and plan.method in ("map", "mle", "laplace"):
        raise Refused(
            f"{plan.method} needs float64, seven digits do not tell where the mode is; leave "
            "dtype out and write .to(x.dtype) at what is float32, or use nuts or svi"
        )
    return plan.data.dtype


def execute(plan: Plan, context: Context, record: Mapping[str, Any], started: float) -> Result:
    """The planned run, computed and judged.

    Args:
        plan: what was asked for.
        context: where it computes, and who is told.
        record: what is known of it before it begins.
        started: when it was asked for, `time.perf_counter`.
    """
    context.callbacks.on_start(record)
    with machine.numbers(_precision(plan)):
        problem = problem_of(plan.entry, plan.options, plan.data)
        if plan.init is not None:
            problem = _begun_by(problem, plan.init)
        if plan.method != "prior":
            _must_observe(plan.entry, problem)
        if plan.method != "svi":
            _must_be_fitted(plan.method, problem)
        if plan.method != "prior":
            _must_have_densities(problem)
            _must_bear_gaps(problem)
        if plan.method not in ("prior", "exact"):
            proofs.prove(problem)
        began = time.perf_counter()
        with machine.on(plan.device):
            placed = prepare.place(problem, plan.device)
            function = method(plan.method)
            program = Program(placed)
            fit = function(program, seed=plan.seed, context=context, **plan.settings)
            fit = circular.turned(program, fit, plan.seed)
        fitted = time.perf_counter()
        fit = fit.on_cpu()
        fit.params = {**problem.params, **fit.params}
        if plan.data.n == 0:
            fit.findings.append(Finding("note", "there are no data, so this is the prior"))
        if undrawn := Program(problem).undrawn:
            what = f"the distribution of {_some(undrawn)} has no sample(): nothing predicts it"
            fit.findings.append(Finding("note", what))
        fit.findings += _unplated(Program(problem))
        problem = replace(problem, params=fit.params, linear_at=fit.linear_at)
        whole, problem = problem, problem if fit.rows is None else problem.first(fit.rows)
        labels = {"model": plan.name, "method": plan.method, "guide": plan.guide or ""}
        idata = inference_data.to_inference_data(
            problem, fit, seed=plan.seed, **labels, seed_of_run=plan.seed
        )
        codes = _encoded(plan, whole, fit, idata)
        verdict, metrics = _judge(plan, problem, fit, idata, codes)
        found = _found(plan, whole, fit, record)
    done = time.perf_counter()
    timing = {"load_s": began - started, "fit_s": fitted - began}
    timing |= {"judge_s": done - fitted, "total_s": done - started}
    found |= {"metrics": metrics, "exact": inference_data.truth_of(fit.exact), "timing": timing}
    found |= {"verdict": verdict.to_json_object()}
    found["findings"] = [vars(finding) for finding in verdict.findings]
    found["given"] = verdict.given
    return Result({**record, **found}, idata, verdict, fit.params)


def _judge(
    plan: Plan,
    problem: Problem,
    fit: Any,
    idata: az.InferenceData,
    codes: Mapping[str, float],
) -> tuple[Verdict, dict[str, float]]:
    """Verdict and metrics of a fit; adds what the model knows to its InferenceData."""
    entry, data = plan.entry, plan.data
    metrics = inference_data.metrics(fit, idata, bool(Program(problem).improper()))
    left_out, findings = loo.judged(problem, fit, idata, metrics.get("khat"))
    fit.findings += findings + separable.findings(problem, idata)
    metrics |= left_out | inference_data.held_out(problem, fit, idata) | dict(codes)
    if entry.original is not None and data.scaling is not None and fit.kind != "prior":
        inference_data.add_original(idata, lambda draws: entry.original(draws, data))
    checked = vouch.findings(problem, fit, metrics, plan.seed)
    alike = partial(vouch.chains_predict_alike, problem, fit, plan.seed)
    verdict = diagnostics.verdict(fit, idata, metrics, checked, alike)
    if entry.metrics is not None and fit.kind != "prior":
        more = inference_data.wanted(entry.metrics, idata, fit.params) | dict(plan.options)
        metrics |= entry.metrics(data, inference_data.draws_of(idata), fit.exact, **more)
    if entry.doubts is not None and fit.kind != "prior":
        more = inference_data.wanted(entry.doubts, idata, fit.params) | dict(plan.options)
        doubts = [Finding("warn", *doubt) for doubt in entry.doubts(metrics, **more)]
        verdict = verdict.with_findings(doubts)
    beside, findings = baselines.compared(problem, idata)
    return verdict.with_findings(findings), metrics | beside


def _encoded(plan: Plan, problem: Problem, fit: Any, idata: az.InferenceData) -> dict[str, float]:
    """What an encoder makes of rows that were held out; of others, their codes alone."""
    trained = plan.method == "svi" and fit.trace is not None and fit.status != "failed"
    if not trained:
        return {}
    program = Program(problem)
    if not row_latents.has_weights(program):
        return {}
    in_force = trained_guide(program, plan.settings["guide"])
    with seeded(plan.seed, PREDICTIVE), in_force as guide:
        if not row_latents.encodes(program, guide):
            return {}
        return inference_data.kept(importance.scored(program, guide, plan.seed), idata)


def _found(plan: Plan, problem: Problem, fit: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json holds of the result, beside what it held from the beginning."""
    return {
        "status": fit.status,
        "signal": fit.signal,
        "settings": record["settings"] | fit.settings,
        "data": record["data"] | _data_seen(plan.data, problem) | {"dtype": _precision(plan)},
        "latent_keys": list(problem.latent_keys),
        "identified": problem.identified,
        "point": {k: v.tolist() for k, v in fit.point.items()},
        "linearised": fit.linear_at is not None,
    }


def _data_seen(data: Any, problem: Problem) -> dict[str, Any]:
    """The data of a run as the model saw them."""
    return {
        "n": data.n if data.n is not None else problem.n,
        "rows": problem.rows,
        "shapes": {k: list(getattr(v, "shape", ())) for k, v in problem.tensors.items()},
        "predicted": _predicted(problem),
        "units": {key: list(unit) for key, unit in data.units.items()},
    }


def _predicted(problem: Problem) -> list[str]:
    """The data keys that are observed (or latent): what a prediction does not need."""
    return [*observed_keys(Program(problem).sites, problem.tensors).values(), *problem.latent_keys]


def simulated(plan: Plan) -> Simulated:
    """The method of a plan, to be fitted to data drawn from its model."""
    entry, data, options = plan.entry, plan.data, plan.options

    def given(problem: Problem) -> Problem:
        """What belongs to these data: a refusal, the exact truth."""
        own = {key: problem.tensors[key].clone() for key in study.keys.values()}
        simulated_data = replace(data, tensors={**data.tensors, **own}, test=None)
        reason = entry.refuses(plan.method, options, simulated_data)
        if reason:
            raise Refused(reason)
        known = partial(prepare.truth, entry, simulated_data, options) if entry.exact else None
        return replace(problem, exact=known)

    with machine.numbers(data.dtype):
        problem = problem_of(entry, options, data)
        study = Simulated(problem, method(plan.method), plan.settings, plan.seed, given)
    return study


def gradients(plan: Plan, context: Context, draws: int) -> Table:
    """The noise of gradients (`gradients.variances`, or `biases`), with its picture."""
    from ..checks import gradients
    from ..results.comparison import Table
    from ..show import overlays

    names = ("steps", "batch_size", "lr", "schedule")
    settings = AscentSettings(
        **{k: v for k, v in plan.settings.items() if k in names and v is not None}
    )
    with machine.numbers(plan.data.dtype):
        problem = problem_of(plan.entry, plan.options, plan.data)
        asked = {"seed": plan.seed, "context": context, "settings": settings, "draws": draws}
        if plan.entry.estimates:
            found = gradients.biases(problem, plan.entry.estimates, **asked)
            what = plan.entry.estimates[0], "a part's parameters"
        else:
            found = gradients.variances(problem, **asked)
            what = "a mean field", "a layer's means"
    table = Table(found)
    table.title = f"gradients-{plan.name}"
    table.pictures = {"gradients": partial(overlays.gradients, found)}
    table.notes = [
        f"{draws} gradients each after {settings.steps} steps of {what[0]}, one batch of "
        f"{settings.batch_size or problem.n} rows; the variance is summed over {what[1]}",
        *gradients.readings(found),
    ]
    return table


def fitted(problem: Problem, record: Mapping[str, Any], params: Mapping[str, Tensor]) -> Problem:
    """The problem with what a run learned: parameters, and the point where it made it linear."""
    # What is made linear has no parameters but the latents, and the point is all that is kept.
    linear_at = params if record.get("linearised") else None
    return replace(problem, params=params, linear_at=linear_at)


def predict(
    model: Callable,
    record: Mapping[str, Any],
    draws: Result,
    tensors: Mapping[str, Tensor],
    rows: int,
) -> pd.DataFrame:
    """The predictive distribution of new rows, summarised; of several classes their chances.

    Args:
        model: the run's model, its options bound.
        record: the run's record.
        draws: what the run found.
        tensors: data key to tensor, of new rows and of what is the same for all rows.
        rows: number of new rows, where no data say.

    Raises:
        Refused: what the prediction needs is missing. UsageError: nothing was observed.
    """
    plate, keys = record["data"]["rows"] or (None, ())
    tensors = dict(tensors)
    given = [key for key in keys if key in tensors]
    n = len(tensors[given[0]]) if given else rows
    for key, shape in record["data"]["shapes"].items():
        if key not in tensors and key not in record["data"]["predicted"]:
            raise Refused(f"predicting needs {key}; give it in --data")
        if key not in tensors:
            tensors[key] = torch.zeros([n, *shape[1:]] if key in keys else shape)
    problem = Problem(
        model=model,
        tensors=tensors,
        latent_keys=tuple(key for key in record["latent_keys"] if key not in keys),
        rows=(plate, tuple(keys)) if plate else None,
    )
    problem = fitted(problem, record, draws.params)
    program = Program(prepare.prepare(problem, dtype=torch.get_default_dtype(), checked=False))
    if not program.of("observed"):
        raise UsageError(
            "nothing was observed in this run, so there is nothing to predict; give it data"
        )
    if len(program.undrawn) == len(program.of("observed")):
        raise Refused(
            f"the distribution of {_some(program.undrawn)} has no sample(), so nothing can be "
            "predicted; write one"
        )
    posterior = draws.idata["posterior"]
    values = {k: torch.as_tensor(v) for k, v in inference_data.draws_of(draws.idata).items()}
    if scores.of_several_classes(program):
        with seeded(record["seed"], PREDICTIVE):
            return scores.class_table(program, scores.of_other_rows(program, values))
    shape = (posterior.sizes["chain"], posterior.sizes["draw"])
    new = inference_data.predictive(program, values, shape, record["seed"], new_rows=True)
    return inference_data.predictive_table(new, record["data"]["units"])
