"""The samplers of sampling.py over rows of logits at once, on any device torch has.

Every row has its own settings and nothing crosses rows. Masses are whole numbers, so that their
sums are exact in any order: a row's draw depends neither on the number of rows nor on the device's
way to sum. No function here copies from the host or waits for the device; all can be captured as a
CUDA graph. (torch.where with a plain number would copy it; masked_fill does not.)
"""

import torch
from torch import Tensor

from stentor.engine.decoder import NOT_FINITE, Draw

# One row of `draws`, all exact as doubles: temperature, repetition penalty, top-k, top-p, min-p and
# the number in [0, 1).
GREEDY_COLUMNS = (0.0, 1.0, 0.0, 1.0, 0.0, 0.0)
# Sums of masses stay below 2**52: exact as doubles too.
MASS_BITS = 52


def draw_columns(draw: Draw) -> tuple[float, ...]:
    """Return one row of `draws`."""
    settings = draw.settings
    return (
        settings.temperature,
        settings.repetition_penalty,
        float(settings.top_k),
        settings.top_p,
        settings.min_p,
        draw.number,
    )


def seen_tokens(token_ids: Tensor, positions: Tensor, vocabulary: int) -> Tensor:
    """Return which tokens a row has seen [rows, vocabulary].

    `token_ids` [rows, capacity] hold what was read; `positions` [rows] is the last that counts.
    """
    columns = torch.arange(token_ids.shape[1], device=token_ids.device)
    # What is not seen is marked in a column of its own.
    counted = token_ids.masked_fill(columns > positions.unsqueeze(1), vocabulary)
    size = (len(token_ids), vocabulary + 1)
    seen = torch.zeros(size, dtype=torch.bool, device=token_ids.device)
    return seen.scatter_(1, counted, True)[:, :vocabulary]


def choose(logits: Tensor, seen: Tensor, draws: Tensor) -> Tensor:
    """Return the tokens drawn [rows], from fp32 logits [rows, vocabulary].

    `seen` [rows, vocabulary] is for the repetition penalty, `draws` [rows, 6] has GREEDY_COLUMNS'
    columns. A row that is not finite gets any token; see measure.
    """
    columns = draws.unsqueeze(-1).unbind(1)  # [rows, 1] each
    temperatures, penalties, top_ks, top_ps, min_ps, numbers = columns
    ordered, order = _penalise(logits, seen, penalties.float()).sort(
        dim=-1, descending=True, stable=True
    )
    is_greedy = temperatures.float() == 0.0
    divisors = temperatures.float().clamp(min=torch.finfo(torch.float32).tiny)
    falls = (ordered[:, :1] - ordered) / divisors  # rising from 0: minus the log of p / largest p
    reached = _masses(-falls).cumsum(dim=-1)
    kept = _count_kept(falls, reached, top_ks.long(), top_ps, min_ps)
    aims = (numbers * reached.gather(1, kept - 1)).floor().long()
    places = torch.searchsorted(reached, aims, right=True)  # the first whose mass goes beyond
    places = torch.minimum(places, kept - 1).masked_fill(is_greedy, 0)
    return order.gather(1, places).squeeze(1)


def measure(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Return [rows, 3] doubles: token id, log-probability and rank of `token_ids` [rows].

    The token is NOT_FINITE where a logit of the row is NaN or infinite.
    """
    chosen = logits.gather(1, token_ids.unsqueeze(1))
    log_probabilities = (chosen.double() - _log_totals(logits)).squeeze(1)
    ranks = (logits > chosen).sum(dim=-1) + 1
    is_damaged = ~logits.isfinite().all(dim=-1)
    answered = token_ids.masked_fill(is_damaged, NOT_FINITE)
    return torch.stack((answered.double(), log_probabilities, ranks.double()), dim=1)


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return ids and log-probabilities of the `count` likeliest tokens, [rows, count] each.

    Equal ones by token id, which topk does not promise. A `count` of 0 costs nothing.
    """
    if count == 0 or len(logits) == 0:
        nothing = logits[:, :0]
        return nothing.long(), nothing.double()
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    return order[:, :count], ordered[:, :count].double() - _log_totals(logits)


def _penalise(logits: Tensor, seen: Tensor, penalties: Tensor) -> Tensor:
    """Divide positive and multiply negative logits of seen tokens (arXiv 1909.05858, 4.1)."""
    penalised = torch.where(logits < 0.0, logits * penalties, logits / penalties)
    return torch.where(seen, penalised, logits)


def _masses(log_ratios: Tensor) -> Tensor:
    """Return exp(log_ratios), each at most 1, as whole numbers whose sum is below 2**MASS_BITS.

    For 32,768 tokens the smallest mass is 2**-36 of the largest; fp32 has 24 bits.
    """
    return (log_ratios.exp() * _unit(log_ratios.shape[-1])).long()


def _unit(vocabulary: int) -> float:
    """Return the mass of a probability of 1."""
    return 2.0 ** (MASS_BITS - vocabulary.bit_length())


def _log_totals(logits: Tensor) -> Tensor:
    """Return log(sum(exp(logits))) [rows, 1] in double."""
    largest = logits.amax(dim=-1, keepdim=True)
    total = _masses(logits - largest).sum(dim=-1, keepdim=True)
    return largest.double() + (total.double() / _unit(logits.shape[-1])).log()


def _count_kept(
    falls: Tensor, reached: Tensor, top_ks: Tensor, top_ps: Tensor, min_ps: Tensor
) -> Tensor:
    """Return how many of the likeliest tokens the samplers keep, at least 1; all [rows, 1].

    `reached` [rows, vocabulary] is the mass of each token and those before it, `falls` rises.
    """
    vocabulary = falls.shape[1]
    kept = top_ks.masked_fill(top_ks == 0, vocabulary).clamp(1, vocabulary)
    mass_of_top_k = reached.gather(1, kept - 1)
    wanted = (top_ps * mass_of_top_k).ceil().long()
    wanted = torch.minimum(wanted, mass_of_top_k)  # the product may round up beyond a top-p of 1
    kept = torch.minimum(kept, torch.searchsorted(reached, wanted) + 1)
    deepest = min_ps.log().neg().float()  # infinite where off
    kept = torch.minimum(kept, torch.searchsorted(falls, deepest, right=True))
    return kept.clamp(min=1)
