"""Names to objects: the one place that knows both the registry and torch.

A model is opened first, which reads its settings and headers and checks them, and loaded later,
so that a wrong option is refused before torch is imported. torch comes only inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptkit.checkpoints import packed as packed_weights
from gptkit.checkpoints import safe_load
from gptkit.checkpoints.checkpoint import Checkpoint, open_checkpoint
from gptkit.checkpoints.library import find
from gptkit.checkpoints.save import save_packed
from gptkit.checkpoints.tokenizer_files import load_tokenizer, own_tokenizer
from gptkit.decoding.request import add_stop
from gptkit.errors import CheckpointError, ConfigError, ResourceError, did_you_mean
from gptkit.model import memory
from gptkit.model.config import CACHE_DTYPE, DTYPE_BYTES
from gptkit.model.cpu import load as cpu
from gptkit.model.forward import slot_positions
from gptkit.plugin_host import Registry, registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from gptkit.decoding.engine import Engine
    from gptkit.decoding.method import Method
    from gptkit.decoding.request import Draft, Item, Request, Stops
    from gptkit.decoding.scoring import Scorer
    from gptkit.model.config import GPTConfig
    from gptkit.model.forward import Forward
    from gptkit.plugin_api import ChatTemplate, Template, Tokenizer

__all__ = [
    "BACKENDS",
    "DEVICES",
    "DTYPES",
    "Model",
    "check_stops",
    "convert",
    "draft",
    "engine",
    "first_token",
    "load_model",
    "load_tokenizer",
    "open_model",
    "open_tokenizer",
    "place",
    "registry",
    "samples",
    "scorer",
    "template",
    "with_template_stops",
]

BACKENDS = ("auto", "torch", "cpu", "numpy")
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16", "float16", "int8", "int4")


QUANTISED = tuple(CACHE_DTYPE)


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is ready to decode, its tokenizer, and what its folder says about both."""

    name: str
    path: Path
    forward: Forward
    tokenizer: Tokenizer
    config: GPTConfig
    eos_ids: frozenset[int]
    bos_id: int | None
    chat_template: str | None
    recommended: tuple[Item, ...] | None
    backend: str
    device: str
    dtype: str
    notes: tuple[str, ...] = ()


def open_model(name: str | None) -> Checkpoint:
    """Find a model by path or name, read its settings and check its headers; no torch."""
    return open_checkpoint(find(name))


def open_tokenizer(
    source: Checkpoint, registry: Registry, given: str | None = None
) -> tuple[Tokenizer, tuple[str, ...]]:
    """Load a model's own tokenizer, or the `given` NAME or NAME:PATH, with what is to be said.

    Raise CheckpointError where it has more ids than the model. No torch.
    """
    loaded = load_tokenizer(given, registry) if given else own_tokenizer(source, registry)
    return loaded, _check_vocabulary(source, loaded)


def check_stops(stops: Stops, config: GPTConfig, where: str) -> None:
    """Refuse stops that a model can't meet: more tokens than its context has, ids it has not.

    `where` is what the user wrote to say how many tokens.
    """
    if stops.max_new_tokens > config.block_size:
        raise ConfigError(
            f"{where}: {stops.max_new_tokens:,} is above {config.block_size:,}, "
            "the model's context",
            hint=f"it is a whole number from 0 to {config.block_size:,}",
        )
    for one in stops.criteria:
        ids = one.criterion.token_ids(one.values)
        if bad := sorted(token for token in ids if not 0 <= token < config.vocab_size):
            raise ConfigError(
                f"{one.criterion.name}: {bad[0]:,} is no token of the model, which has "
                f"{config.vocab_size:,}",
                hint=f"ids are from 0 to {config.vocab_size - 1:,}; gptkit tokenize shows them",
            )


def load_model(
    source: Checkpoint,
    registry: Registry,
    *,
    tokenizer: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    tell: Callable[[str], None] | None = None,
) -> Model:
    """Load weights and tokenizer; `tokenizer` is NAME or NAME:PATH, instead of the model's own.

    What `auto` is, `place` says. `tell` is told what takes more than a second or two.
    """
    loaded, notes = open_tokenizer(source, registry, tokenizer)
    backend, device, dtype = place(source, backend, device, dtype)
    if device == "cpu":
        n_bytes = _copied_bytes(source, backend, dtype) + _cache_bytes(source.config, dtype, 1)
        memory.check(source.path.name, n_bytes, "try a smaller model, or a smaller --dtype")
    tensors = source.load()
    if backend == "cpu":
        forward, tensors = _packed(source, tensors, dtype, tell)
    else:
        forward = _forward(backend, source, tensors, device, dtype)
    return Model(
        name=source.path.name,
        path=source.path,
        forward=forward,
        tokenizer=loaded,
        config=source.config,
        eos_ids=frozenset(source.eos_ids),
        bos_id=source.bos_id,
        chat_template=source.chat_template,
        recommended=source.sampling,
        backend=backend,
        device=device,
        dtype=dtype,
        notes=(*notes, *source.notes, *safe_load.non_finite(tensors)),
    )


def _copied_bytes(source: Checkpoint, backend: str, dtype: str) -> int:
    """Return the bytes of weights that can't stay mapped: in another type, or packed."""
    packed = source.config.n_params() if backend == "cpu" or dtype == "float32" else 0
    other = 0 if backend == "cpu" else source.n_elements(stored_not_as=dtype)
    return round((other + packed) * DTYPE_BYTES[dtype])


def _cache_bytes(config: GPTConfig, dtype: str, n_slots: int) -> int:
    """Return the bytes of keys and values of `n_slots` sequences that fill the context."""
    return n_slots * slot_positions(config.block_size) * config.kv_bytes_per_token(dtype)


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            f"{option}: '{value}' is none of {', '.join(known)}",
            hint=did_you_mean(value, known) or f"without it: {known[0]}",
        )


def _check_vocabulary(source: Checkpoint, tokenizer: Tokenizer) -> tuple[str, ...]:
    known, rows = tokenizer.vocab_size, source.config.vocab_size
    if known > rows:
        raise CheckpointError(
            f"tokenizer {tokenizer.name} has {known:,} ids, the model only {rows:,}",
            hint="they do not belong together; give the right one with --tokenizer",
        )
    if known < rows:
        return (f"{rows - known:,} padded ids of the model are masked",)
    return ()


def place(source: Checkpoint, backend: str, device: str, dtype: str) -> tuple[str, str, str]:
    """Return backend, device and dtype that a model is computed by, on and in, `auto` resolved.

    The device is CUDA where there is one. On a CPU the type is float32, elsewhere the stored one.
    The backend of a CPU is `cpu` where numba is installed, and for what it can do; else torch.
    """
    _check_choice("--backend", backend, BACKENDS)
    _check_choice("--device", device, DEVICES)
    _check_choice("--dtype", dtype, DTYPES)
    if backend == "numpy":
        if device not in ("auto", "cpu") or dtype not in ("auto", "float32"):
            raise ConfigError(
                "--backend numpy computes in float32 on the CPU alone",
                hint="leave out --device and --dtype",
            )
        return backend, "cpu", "float32"
    if backend == "cpu" or dtype in QUANTISED:
        return "cpu", *_place_on_cpu(backend, device, dtype)
    from gptkit.model.device import pick_device

    device = pick_device(device)
    if dtype == "auto":
        stored = source.dtypes[0] if len(source.dtypes) == 1 else "float32"
        dtype = "float32" if device == "cpu" else stored
    fast = backend == "auto" and device == "cpu" and dtype in cpu.DTYPES and not cpu.why_not()
    return "cpu" if fast else "torch", device, dtype


def _place_on_cpu(backend: str, device: str, dtype: str) -> tuple[str, str]:
    what = f"--dtype {dtype}" if dtype in QUANTISED else "--backend cpu"
    if backend == "torch":
        raise ConfigError(f"{what} is of the backend cpu, not torch", hint="leave out --backend")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"{what} computes on the CPU alone", hint="leave out --device")
    if dtype not in ("auto", *cpu.DTYPES):
        raise ConfigError(f"--backend cpu has no {dtype}", hint=f"it has: {', '.join(cpu.DTYPES)}")
    if reason := cpu.why_not():
        raise ConfigError(f"{what}: {reason}", hint="pip install 'gptkit[fast]'")
    return "cpu", "float32" if dtype == "auto" else dtype


def _forward(
    backend: str,
    source: Checkpoint,
    tensors: Mapping[str, Tensor],
    device: str,
    dtype: str,
) -> Forward:
    import torch

    if backend == "numpy":
        from gptkit.model.reference import ReferenceGPT

        weights = {name: tensor.float().numpy() for name, tensor in tensors.items()}
        return ReferenceGPT(source.config, weights)
    from gptkit.model.gpt import GPT

    try:
        return GPT.from_tensors(source.config, tensors, dtype=getattr(torch, dtype), device=device)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{source.path.name} does not fit on {device}",
            hint="--device cpu, or a smaller --dtype",
        ) from error


def _packed(
    source: Checkpoint,
    tensors: dict[str, Tensor],
    dtype: str,
    tell: Callable[[str], None] | None,
) -> tuple[Forward, dict[str, Tensor]]:
    """Return a model over packed weights, and the tensors that were read for it."""
    import torch

    cpu.compile_kernels(tell)
    packed = packed_weights.find(source, dtype, cpu.sizes(source.config, dtype))
    read = tensors
    if packed is None:
        packed = _pack(source, tensors, dtype)
        packed_weights.keep(source, dtype, packed)
    else:
        is_read = {name: t.ndim == 1 or name == "wpe.weight" for name, t in tensors.items()}
        read = {name: tensor for name, tensor in tensors.items() if is_read[name]}
    forward = cpu.model(source.config, packed, tensors, dtype, torch.get_num_threads())
    return forward, read


def _pack(source: Checkpoint, tensors: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    import torch

    made = cpu.pack(source.config, tensors, *cpu.kinds_of(dtype))
    return {name: torch.from_numpy(matrix.data) for name, matrix in made.items()}


def convert(source: Checkpoint, dtype: str) -> Path:
    """Write a model's weights, packed for the CPU kernels, beside it; return the file.

    Raise ConfigError where this machine has no such kernels, ResourceError where it can't be
    written.
    """
    _check_choice("--dtype", dtype, cpu.DTYPES)
    _place_on_cpu("cpu", "cpu", dtype)
    n_bytes = _copied_bytes(source, "cpu", dtype)
    memory.check(source.path.name, n_bytes, "try a smaller --dtype")
    path = packed_weights.beside(source, dtype)
    try:
        save_packed(path, _pack(source, source.load(), dtype))
    except OSError as error:
        raise ResourceError(
            f"cannot write {path}: {error.strerror or error}",
            hint="free some space, or copy the model to a folder that you may write to",
        ) from error
    return path


def draft(method: Method, model: Model, registry: Registry, *, n_slots: int = 1) -> Draft | None:
    """Return who guesses ahead for a model; a smaller model is loaded for it."""
    from gptkit.decoding.request import Draft
    from gptkit.decoding.speculation import DraftModel

    if method.speculate is None:
        return None
    plugin, values = method.speculate.plugin, method.speculate.values
    if plugin is not DraftModel:
        return Draft(plugin, values["k"], values)
    from gptkit.decoding.engine import TokenizerVocab

    source = open_model(values["model"])
    small = load_model(
        source, registry, backend=model.backend, device=model.device, dtype=model.dtype
    )
    ours, theirs = model.tokenizer, small.tokenizer
    n = ours.vocab_size
    if n != theirs.vocab_size or any(
        ours.token_bytes(i) != theirs.token_bytes(i) for i in range(n)
    ):
        raise ConfigError(
            f"speculate: {small.name} and {model.name} have different tokenizers",
            hint="a draft model needs the same one",
        )
    drafter = DraftModel(small.forward, TokenizerVocab(ours, model.eos_ids), n_slots)
    return Draft(lambda: drafter, values["k"], values)


def samples(prompt_ids: tuple[int, ...], n: int, *, seed: int, **rest: Any) -> list[Request]:
    """Return n requests for one prompt, which is computed once for them all.

    One starts from the seed itself, each of several from a seed derived from it.
    """
    from gptkit.decoding.noise import derive
    from gptkit.decoding.request import Request

    if n == 1:
        return [Request(prompt_ids, seed=seed, **rest)]
    shared = len(prompt_ids) - 1
    seeds = [derive(seed, i) for i in range(n)]
    return [Request(prompt_ids, seed=one, n_shared=shared, **rest) for one in seeds]


def engine(model: Model, *, n_slots: int = 1) -> Engine:
    """Return an engine over a model, with room for `n_slots` sequences at once."""
    from gptkit.decoding.engine import Engine, n_trunk_slots

    _check_cache(model, n_slots, n_trunk_slots(n_slots))
    memory.keep_freed()
    return Engine(model.forward, model.tokenizer, model.eos_ids, n_slots=n_slots)


def scorer(model: Model, *, n_slots: int) -> Scorer:
    """Return who scores given texts by a model, `n_slots` of them at once."""
    from gptkit.decoding.scoring import Scorer

    _check_cache(model, n_slots)
    return Scorer(model.forward, model.tokenizer.vocab_size, n_slots=n_slots)


def _check_cache(model: Model, n_slots: int, n_more: int = 0) -> None:
    """Raise ResourceError where there is no memory for this many sequences, and so many trunks."""
    if model.device == "cpu":
        n_bytes = _cache_bytes(model.config, model.dtype, n_slots + n_more)
        what = f"the cache of {n_slots:,} sequences" if n_slots > 1 else "the cache"
        memory.check(what, n_bytes, "try a smaller batch, or a smaller --dtype")


def first_token(model: Model) -> int:
    """Return the token that an empty prompt starts from, or raise ConfigError."""
    if model.bos_id is None:
        raise ConfigError(
            "the prompt is empty", hint=f"{model.name} has no token to start from; give a prompt"
        )
    return model.bos_id


def template(name: str, registry: Registry) -> Template | ChatTemplate:
    """Return a template by name: a class of a plugin, or a YAML file that one offers."""
    from gptkit.text.template import read_template

    value = registry.find("template", name).value
    return value() if isinstance(value, type) else read_template(value, name)


def with_template_stops(
    block: Mapping[str, Any], template: Template | ChatTemplate, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Return a `stop` block with what the template stops at: strings, and control tokens by id."""
    out = dict(block)
    for stop in template.stops:
        if not stop.control:
            out = add_stop(out, "strings", [stop.text])
        elif stop.text in tokenizer.special:
            out = add_stop(out, "tokens", [tokenizer.special[stop.text]])
    return out
