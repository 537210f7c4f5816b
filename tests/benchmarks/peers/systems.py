"""The systems, behind one protocol: load a model from a folder, decode, and say how fast.

Decoding is greedy and is measured after all prompts are read: the rate is that of all sequences
together. The time to a first token is that of one prompt, in a model that has run before.
"""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from gptkit.decoding.engine import Engine

PROMPT = 64
"""Tokens of each prompt whose continuation is timed."""


class System(Protocol):
    """A model that is loaded."""

    def rate(self, n: int, new: int) -> float:
        """Return tokens per second while n sequences are continued by `new` tokens each."""
        ...

    def first(self, n_prompt: int) -> float:
        """Return the seconds from a prompt to its first token."""
        ...


def prompts(n: int, length: int, salt: int) -> list[list[int]]:
    """Return n prompts that nobody has seen: no prefix is equal to one of another salt."""
    rng = np.random.default_rng(salt)
    found: list[list[int]] = rng.integers(0, 50257, (n, length)).tolist()
    return found


class _Salted:
    """Gives new prompts each time, or a prefix cache would answer."""

    salt = 0

    def prompts(self, n: int, length: int) -> list[list[int]]:
        self.salt += 1
        return prompts(n, length, self.salt)


class Gptkit(_Salted):
    """gptkit's engine, as its command line runs it."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        from gptkit import assembly
        from gptkit.decoding.request import resolve_chain

        plugins = assembly.registry()
        source = assembly.open_model(str(folder / "hf"))
        self.model = assembly.load_model(source, plugins, backend="cpu", device="cpu", dtype=dtype)
        self.chain = resolve_chain(["greedy"], plugins)
        self.engines: dict[int, Engine] = {}

    def rate(self, n: int, new: int) -> float:
        from gptkit.decoding.request import Request, Stops

        engine = self._engine(n)
        stops = Stops(new + 2 * n)
        ids = [
            engine.add(Request(tuple(prompt), self.chain, stops, 0))
            for prompt in self.prompts(n, PROMPT)
        ]
        while len(engine.running) < n or not all(one.n_out for one in engine.running):
            engine.step()
        start = time.perf_counter()
        n_tokens = sum(len(engine.step()) for _ in range(new))
        seconds = time.perf_counter() - start
        for id in ids:
            engine.cancel(id)
        return n_tokens / seconds

    def first(self, n_prompt: int) -> float:
        from gptkit.decoding.request import Request, Stops

        engine = self._engine(1)
        (prompt,) = self.prompts(1, n_prompt)
        start = time.perf_counter()
        next(iter(engine.stream(Request(tuple(prompt), self.chain, Stops(1), 0))))
        return time.perf_counter() - start

    def _engine(self, n: int) -> Engine:
        """Return the engine of n slots, the same at each call, as a chat or a job has one."""
        from gptkit import assembly

        if n not in self.engines:
            self.engines[n] = assembly.engine(self.model, n_slots=n)
        return self.engines[n]


class _Whole(_Salted):
    """A system that answers in one call: what decoding takes is the difference of two."""

    def rate(self, n: int, new: int) -> float:
        given = self.prompts(n, PROMPT)
        first = self._seconds(given, 1)
        return n * new / (self._seconds(given, new + 1) - first)

    def first(self, n_prompt: int) -> float:
        return self._seconds(self.prompts(1, n_prompt), 1)

    @abstractmethod
    def _seconds(self, given: list[list[int]], new: int) -> float:
        """Return how long it takes to continue prompts by `new` tokens each."""


class Transformers(_Whole):
    """transformers' `generate`."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        import torch
        from transformers import GPT2LMHeadModel

        self.model = GPT2LMHeadModel.from_pretrained(
            folder / "hf", dtype=getattr(torch, dtype)
        ).eval()

    def _seconds(self, given: list[list[int]], new: int) -> float:
        import torch

        ids = torch.tensor(given)
        start = time.perf_counter()
        with torch.inference_mode():
            self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
            )
        return time.perf_counter() - start


class CTranslate2(_Whole):
    """CTranslate2's generator."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        import ctranslate2

        self.model = ctranslate2.Generator(
            str(folder / f"ctranslate2-{dtype}"),
            device="cpu",
            compute_type=dtype,
            inter_threads=1,
            intra_threads=threads,
        )
        self.words = list(json.loads((folder / "hf" / "vocab.json").read_text()))

    def _seconds(self, given: list[list[int]], new: int) -> float:
        words = [[self.words[i] for i in ids] for ids in given]
        start = time.perf_counter()
        found = self.model.generate_batch(
            words,
            max_length=new,
            min_length=new,
            sampling_topk=1,
            beam_size=1,
            include_prompt_in_result=False,
            end_token=[],
        )
        seconds = time.perf_counter() - start
        assert all(len(one.sequences_ids[0]) == new for one in found)
        return seconds


class LlamaCpp(_Salted):
    """llama.cpp's own interface: one batch holds the next token of every sequence."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        import llama_cpp

        self.lib, self.threads = llama_cpp, threads
        quiet(llama_cpp)
        path = folder / f"{dtype}.gguf"
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        assert self.model, path

    def rate(self, n: int, new: int) -> float:
        with _Context(self, n, PROMPT + new + 1) as context:
            for i, prompt in enumerate(self.prompts(n, PROMPT)):
                context.decode(
                    [(token, at, i, at == PROMPT - 1) for at, token in enumerate(prompt)]
                )
            last = [0] * n
            start = time.perf_counter()
            for step in range(new):
                last = context.decode([(last[i], PROMPT + step, i, True) for i in range(n)])
            return n * new / (time.perf_counter() - start)

    def first(self, n_prompt: int) -> float:
        (prompt,) = self.prompts(1, n_prompt)
        with _Context(self, 1, n_prompt + 1) as context:
            start = time.perf_counter()
            context.decode([(token, at, 0, at == n_prompt - 1) for at, token in enumerate(prompt)])
            return time.perf_counter() - start


class _Context:
    """Keys and values of n sequences in llama.cpp."""

    def __init__(self, owner: LlamaCpp, n: int, length: int) -> None:
        lib = self.lib = owner.lib
        settings = lib.llama_context_default_params()
        settings.n_ctx = n * (-(-length // 32) * 32)
        settings.n_batch = settings.n_ubatch = 512
        settings.n_seq_max = n
        settings.n_threads = settings.n_threads_batch = owner.threads
        self.context = lib.llama_init_from_model(owner.model, settings)
        self.batch = lib.llama_batch_init(512, 0, 1)
        self.n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(owner.model))
        # As any program does once: without it the first batch pays for the pages of the weights.
        self.decode([(0, 0, 0, True)])
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)

    def __enter__(self) -> _Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.lib.llama_batch_free(self.batch)
        self.lib.llama_free(self.context)

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Compute tokens, each with its place, its sequence and whether its logits are wanted;
        return the best next token of each that is."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, at, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, at
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = wanted
        assert self.lib.llama_decode(self.context, batch) == 0
        out = []
        for i, (_, _, _, wanted) in enumerate(rows):
            if wanted:
                logits = self.lib.llama_get_logits_ith(self.context, i)
                out.append(int(np.ctypeslib.as_array(logits, (self.n_vocab,)).argmax()))
        return out


def quiet(lib: Any) -> None:
    """Keep llama.cpp from printing its log."""

    @lib.llama_log_callback
    def drop(level: int, text: bytes, data: object) -> None:
        pass

    _KEPT.append(drop)
    lib.llama_log_set(drop, None)


_KEPT: list[object] = []
"""What llama.cpp calls must stay referenced."""

SYSTEMS: dict[str, type[System]] = {
    "gptkit": Gptkit,
    "transformers": Transformers,
    "CTranslate2": CTranslate2,
    "llama.cpp": LlamaCpp,
}
"""By the names that the table has."""
