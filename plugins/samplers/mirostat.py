"""Hold the surprise of the text at a level."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gptkit.plugin_api import Observed, Params, RequestView, Rows, Sampler, param

from .ranking import keep_above, keep_best

if TYPE_CHECKING:
    from torch import Tensor

LN2 = math.log(2)


class Mirostat(Sampler):
    """Hold the mean surprise at tau bits a token (Basu et al. 2020, arXiv:2007.14966).

    The state is mu, at first 2 tau. Version 2 keeps tokens with a surprise of at most mu. Version 1
    keeps the best k, the number that a Zipf law fitted to the best m gives for mu. After each token
    mu -= eta * (S - tau), where S is the token's surprise at the end of the chain, among what was
    left, as in llama.cpp.
    """

    name = "mirostat"
    rank = 100
    state_from = "sample"
    tau = param(0.0, ge=0, le=100, off=0.0, help="surprise to hold, bits a token; 3 to 5 are usual")
    eta = param(0.1, ge=0, le=1, help="how fast it corrects itself")
    version = param(2, ge=1, le=2, help="1 or 2, of the algorithm")
    m = param(100, ge=2, help="version 1: how many tokens the law is fitted to")

    def init_state(self, request: RequestView) -> float:
        """Return mu in bits."""
        return 2.0 * float(request.params["tau"])

    def advance(self, state: float, p: Params, observed: Observed) -> float:
        """Return mu after a token."""
        surprise = -observed.logprob / LN2
        return float(state - p.eta * (surprise - p.tau))

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V] without the tokens that would surprise more than mu."""
        mu = logits.new_tensor(rows.state).double()[:, None] * LN2  # [R, 1], nats
        first = p.version == 1
        out = logits
        if not bool(first.all()):
            out = keep_above(logits, logits.softmax(-1), (-mu).exp().float())
        if bool(first.any()):
            best = keep_best(logits, zipf_count(logits, mu, p.m))
            out = best.where(first, out)
        return out


def zipf_count(logits: Tensor, mu: Tensor, m: Tensor) -> Tensor:
    """Return of how many tokens [R, 1] the surprise is mu [R, 1] nats, by the law of the best m.

    ln(p_i / p_(i+1)) = s * ln((i + 1) / i) is fitted by least squares to the best m [R, 1] of
    logits [R, V]; of such tokens k = (e exp(mu) / (1 - V**-e))**(1 / s), e = s - 1.
    """
    import torch

    n_tokens = logits.shape[-1]
    if n_tokens < 2:
        return torch.ones_like(m)
    look = min(int(m.max()), n_tokens)
    best = logits.topk(look, dim=-1).values.double()  # [R, M], descending
    place = torch.arange(1, look, device=logits.device)  # [M - 1]
    used = (place < m) & (best[:, 1:] > float("-inf"))
    t = ((place + 1) / place.double()).log().where(used, 0.0)
    b = best.diff(dim=-1).neg().where(used, 0.0)
    # a running sum, because a row's sum must not depend on how many tokens its neighbours use
    tb, tt = ((t * one).cumsum(-1)[:, -1:] for one in (b, t))
    s = (tb / tt.clamp_min(1e-9)).clamp_min(1e-6)  # 0 where all are equally likely
    e = s - 1
    ln_v = math.log(n_tokens)
    ratio = (-e / (-e * ln_v).expm1()).where(e.abs() > 1e-9, 1 / ln_v)
    k = ((ratio.log() + mu) / s).clamp(0, ln_v + 1).exp()  # more than V is all
    return k.floor().long()
