"""The tokens that may come next: the nucleus of a distribution, found without sorting it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

_FIRST_WIDTH = 128
_WIDENING = 4


@dataclass(frozen=True, slots=True)
class Candidates:
    """For each request the tokens it may choose from, with their probabilities.

    Attributes:
        token_ids: ``[n, m]`` int64. A row with fewer than ``m`` candidates is padded on the right.
        log_probs: ``[n, m]`` float64, normalised over each row; ``-inf`` marks padding. Rows are in
            falling order of probability (equal probabilities: rising token id), except rows that
            keep the whole vocabulary, which are in order of token id.
    """

    token_ids: Tensor
    log_probs: Tensor

    def gather(self, logits: Tensor) -> Tensor:
        """Values of ``logits`` ``[n, vocab]`` at the candidates, as float64 ``[n, m]``."""
        return logits.gather(-1, self.token_ids).double()


def nucleus(
    logits: Tensor, temperature: Tensor, mass: Tensor, top_k: Tensor | None = None
) -> Candidates:
    """The smallest set of most likely tokens that holds ``mass`` of ``softmax(logits / T)``.

    A token is kept while the mass strictly before it is below ``mass``, so at least one is kept.
    With ``mass`` 1 every token of finite logit is kept. With ``top_k`` the distribution is first
    cut to its ``top_k`` likeliest tokens, and ``mass`` is counted within those.

    The vocabulary is never sorted: the hundred or so likeliest tokens are taken, and more only when
    their mass does not reach the cut, so that the result is exact.

    Args:
        logits: ``[n, vocab]``, any real dtype; ``-inf`` forbids a token. Not all of a row.
        temperature: ``[n]``, above 0.
        mass: ``[n]``, in (0, 1].
        top_k: ``[n]`` int64, or None; 0 means no limit for that row.

    Returns:
        The candidates of each row, ``m`` being the longest row's number of them.
    """
    limit = torch.zeros_like(mass, dtype=torch.long) if top_k is None else top_k
    everything = (mass >= 1) & (limit == 0)
    if not everything.any():
        return _likeliest(logits, temperature, mass, limit)
    if everything.all():
        return _all_tokens(logits, temperature)
    whole = _all_tokens(logits[everything], temperature[everything])
    some = _likeliest(*(t[~everything] for t in (logits, temperature, mass, limit)))
    token_ids = logits.new_zeros(logits.shape, dtype=torch.long)
    log_probs = logits.new_full(logits.shape, -torch.inf, dtype=torch.double)
    width = some.token_ids.shape[-1]
    token_ids[everything], log_probs[everything] = whole.token_ids, whole.log_probs
    rows = (~everything).nonzero()[:, 0]
    token_ids[rows, :width], log_probs[rows, :width] = some.token_ids, some.log_probs
    return Candidates(token_ids, log_probs)


def _all_tokens(logits: Tensor, temperature: Tensor) -> Candidates:
    token_ids = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape)
    scaled = _scale(logits, logits.amax(-1, keepdim=True), temperature)
    return Candidates(token_ids, scaled.log_softmax(-1))


def _scale(logits: Tensor, peak: Tensor, temperature: Tensor) -> Tensor:
    """``(logits - peak) / T`` in float64, finite wherever the logits are."""
    lowest = torch.finfo(torch.double).min
    scaled = (logits.double() - peak.double()) / temperature.double()[:, None]
    return scaled.clamp_min(lowest).masked_fill(logits == -torch.inf, -torch.inf)


def _likeliest(logits: Tensor, temperature: Tensor, mass: Tensor, limit: Tensor) -> Candidates:
    vocab = logits.shape[-1]
    working = logits.float() if logits.dtype in (torch.half, torch.bfloat16) else logits
    peak = working.amax(-1, keepdim=True)
    # The tail matters only through its total: working precision for its terms, not for their sum.
    heat = temperature.double().clamp(1e-30, 1e30).to(working)
    terms = (working - peak).div_(heat[:, None]).exp_()
    total = terms.sum(-1, keepdim=True, dtype=torch.double).log()
    bounded = bool((limit > 0).any())
    width = int(limit.max()) + 1 if bool((limit > 0).all()) else _FIRST_WIDTH
    width = min(vocab, width)
    while True:
        values, ids = working.topk(width, dim=-1)
        ids, by_id = ids.sort(dim=-1)
        values, by_value = values.gather(-1, by_id).sort(dim=-1, descending=True, stable=True)
        ids = ids.gather(-1, by_value)
        log_probs = _scale(values, peak, temperature) - total
        rank = torch.arange(width, device=logits.device)
        allowed = (rank < torch.where(limit > 0, limit, vocab)[:, None]) & (values > -torch.inf)
        if bounded:
            kept_total = log_probs.masked_fill(~allowed, -torch.inf).logsumexp(-1, keepdim=True)
            log_probs = torch.where((limit > 0)[:, None], log_probs - kept_total, log_probs)
        probs = log_probs.exp() * allowed
        before = pad(probs.cumsum(-1)[:, :-1], (1, 0))
        keep = allowed & ((before < mass.double()[:, None]) | (rank == 0))
        count = keep.sum(-1)
        last = values.gather(-1, (count - 1).clamp_min(0)[:, None])[:, 0]
        # Equal logits at the edge of the width could belong to the set: then look further.
        if width == vocab or bool(((values[:, -1] < last) & (count < width)).all()):
            break
        width = min(vocab, width * _WIDENING)
    m = int(count.max())
    kept = log_probs[:, :m].masked_fill(~keep[:, :m], -torch.inf)
    return Candidates(ids[:, :m], kept.log_softmax(-1))
