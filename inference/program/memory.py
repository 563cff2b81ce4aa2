"""What a run will hold in memory, added up before it begins: one place for every method."""

from typing import Literal

import torch

from models.contract import Refused

from .program import Program

# What a run may take, bytes.
_MOST_BYTES = 4e9
# Square matrices of the latents that are held at once, as measured: of a Hessian while Newton's
# step is found (3,000 latents), of a covariance while a guide learns it (4,000).
_SQUARES = {"Hessian": 6, "covariance": 40}
# Draws are copied once on their way into InferenceData.
_COPIES = 2


def check(
    program: Program, draws: int = 1, *, hessian: bool = False, observations: bool = False
) -> None:
    """Refuse a run that would not fit, before it starts.

    What is computed of the draws afterwards, the log likelihood of the rows and predictions of
    them, is thinned to fit (`results.every`).

    Args:
        program: of which the draws are.
        draws: draws of all chains together.
        hessian: whether second derivatives are taken in all directions.
        observations: whether a draw has the observations too.

    Raises:
        Refused: with the number of gigabytes.
    """
    number = torch.get_default_dtype().itemsize
    roles = ("latent", "discrete", "deterministic", *(["observed"] if observations else []))
    size = sum(site.value.numel() for site in program.of(*roles))
    refuse_more(
        _COPIES * number * draws * size,
        f"{draws:,} draws of {size:,} numbers take",
        "lower --set draws, or chains",
    )
    if hessian:
        refuse_square(program.size, "Hessian", "use svi")


def refuse_square(size: int, matrix: Literal["Hessian", "covariance"], fix: str) -> None:
    """Refuse a square matrix of so many latents that would not fit.

    Args:
        size: number of latents.
        matrix: what it is.
        fix: what to do about it.

    Raises:
        Refused: with the number of gigabytes.
    """
    number = torch.get_default_dtype().itemsize
    needed = _SQUARES[matrix] * number * size**2
    refuse_more(needed, f"the {matrix} of {size:,} latents takes", fix)


def refuse_more(size: float, subject: str, fix: str) -> None:
    """Refuse what takes more than a run may.

    Args:
        size: bytes that it takes.
        subject: what takes them, as the beginning of a sentence.
        fix: what to do about it.

    Raises:
        Refused: with the number of gigabytes.
    """
    if size > _MOST_BYTES:
        most = f"more than {_MOST_BYTES / 1e9:.0f}"
        raise Refused(f"{subject} {size / 1e9:.3g} GB, {most}; {fix}")
