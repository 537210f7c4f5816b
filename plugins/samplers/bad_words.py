"""Keep some words out of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.plugin_api import Params, RequestError, RequestView, Rows, Sampler, param

from .adding import BAN, add

if TYPE_CHECKING:
    from torch import Tensor

Runs = tuple[tuple[int, ...], ...]


class BadWords(Sampler):
    """Forbid the token that would complete one of these texts in the answer, as vLLM does.

    A best effort: each text is encoded as it stands and with a space before it, and a model that
    spells it by other tokens gets through. What must never appear needs a stage of the phase
    `constraint`, which knows the bytes.
    """

    name = "bad_words"
    phase = "bias"
    rank = 20
    words = param((), items=str, off=(), examples=(("a",), ("ab", " b")), help="texts to avoid")

    def init_state(self, request: RequestView) -> Runs:
        """Return the token runs that spell the words; raise RequestError where none can."""
        runs: dict[tuple[int, ...], None] = {}
        for word in request.params["words"]:
            bare = word.removeprefix(" ") or word
            failed = []
            for text in (bare, f" {bare}"):
                try:
                    runs[tuple(request.vocab.encode(text))] = None
                except RequestError as error:  # a closed vocabulary may lack the space alone
                    failed.append(error)
            if len(failed) == 2:
                raise RequestError(
                    f"{self.name}: {word!r} can't be written: {failed[0]}",
                    hint="leave it out: this model can't say it",
                )
        return tuple(runs)

    def apply(self, logits: Tensor, p: Params, rows: Rows) -> Tensor:
        """Return logits [R, V] with the last token of each run at -inf where the rest stands."""
        amounts = []
        for r, n_out in enumerate(rows.n_out.tolist()):
            longest = max(map(len, rows.state[r]), default=0)
            tokens = rows.tokens(r)
            end = tuple(tokens[len(tokens) - min(n_out, longest) :])
            banned = (run[-1] for run in rows.state[r] if run and _ends(end, run[:-1]))
            amounts.append(dict.fromkeys(banned, BAN))
        return add(logits, amounts)


def _ends(tokens: tuple[int, ...], run: tuple[int, ...]) -> bool:
    return not run or tokens[-len(run) :] == run
