"""A plan: all that training needs, made and checked before the first step."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gptkit.errors import ConfigError, RequestError, ResourceError
from gptkit.training import corpus
from gptkit.training.recipe import CHAT_TOKENS, SEPARATOR, Recipe
from gptkit.training.resume import checkpoint_in
from gptkit.training.sources import documents, read_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gptkit.model.config import GPTConfig
    from gptkit.plugin_api import Segment, Tokenizer
    from gptkit.plugin_host import Registry
    from gptkit.training.corpus import Corpus


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe with its tokenizer, its corpus and the model's config."""

    recipe: Recipe
    tokenizer: Tokenizer
    corpus: Corpus
    config: GPTConfig
    bos_id: int | None
    eos_ids: tuple[int, ...]


def prepare(recipe: Recipe, registry: Registry, *, resume: bool = False) -> Plan:
    """Return the plan of a recipe; raise where the output, the corpus or the sizes don't do."""
    check_output(recipe.output, resume=resume)
    data = recipe.settings.data
    if data.text is not None:
        text = "".join(map(read_text, recipe.find(data.text)))
        tokenizer = _tokenizer(recipe, registry, [text])
        separator = tokenizer.special.get(SEPARATOR)
        tokens = corpus.of_text(text, tokenizer, data.validation, separator)
        config = recipe.model_config(tokenizer.vocab_size)
    else:
        told = [
            (document, source.repeat)
            for i, source in enumerate(data.sources)
            for document in documents(source, recipe, registry, str(i))
        ]
        tokenizer = _tokenizer(recipe, registry, [_text(document) for document, _ in told])
        separator = tokenizer.special.get(SEPARATOR)
        if separator is None:
            raise ConfigError(
                f"{recipe.document.where(('tokenizer',))}: the tokenizer has no {SEPARATOR}, "
                "which must stand between documents",
                hint="add it to the tokenizer's special:",
            )
        config = recipe.model_config(tokenizer.vocab_size)
        tokens = corpus.of_documents(
            told,
            tokenizer,
            data.validation,
            separator,
            block_size=config.block_size,
            seed=recipe.settings.training.seed,
        )
    _check_sizes(recipe, tokens, config)
    eos_ids = () if separator is None else (separator,)
    bos_id = _newline(tokenizer) if separator is None else separator
    return Plan(recipe, tokenizer, tokens, config, bos_id, eos_ids)


def check_output(folder: Path, *, resume: bool) -> None:
    """Raise where the checkpoint can't go: not writable, or something else is there."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output {folder} is a file", hint="give a folder: --output DIR")
    held = checkpoint_in(folder)
    if held and not resume:
        raise ConfigError(
            f"output {held} already holds a checkpoint",
            hint="--resume goes on with it; --output DIR writes elsewhere",
        )
    if folder.is_dir() and any(folder.iterdir()) and not held:
        raise ConfigError(
            f"output {folder} is not empty and no checkpoint", hint="give another: --output DIR"
        )
    above = folder
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ResourceError(f"cannot write to {above}", hint="give another output: --output DIR")


def _tokenizer(recipe: Recipe, registry: Registry, texts: Sequence[str]) -> Tokenizer:
    wanted = recipe.settings.tokenizer
    if isinstance(wanted, str):
        name, _, path = wanted.partition(":")
        kind: type[Tokenizer] = registry.find("tokenizer", name).value
        return kind.load(recipe.find(path)[0] if path else None)
    ((name, settings),) = wanted.items()
    kind = registry.find("tokenizer", name).value
    special = settings.special
    if special is None:
        special = CHAT_TOKENS if recipe.settings.data.sources else ()
    return kind.train(texts, vocab_size=settings.vocab_size, special=special)


def _text(document: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in document if not segment.control)


def _newline(tokenizer: Tokenizer) -> int | None:
    try:
        ids = tokenizer.encode_ordinary("\n")
    except RequestError:  # a closed vocabulary without it
        return None
    return ids[0] if len(ids) == 1 else None


def _check_sizes(recipe: Recipe, tokens: Corpus, config: GPTConfig) -> None:
    for name, part in (("training", tokens.train), ("validation", tokens.validation)):
        if len(part) <= config.block_size:
            raise ConfigError(
                f"the {name} part has {len(part):,} tokens, block_size {config.block_size:,} needs "
                f"at least {config.block_size + 1:,}",
                hint="give more text, a smaller model.block_size or another data.validation",
            )
    largest = max(int(tokens.train.max()), int(tokens.validation.max()))
    assert largest < config.vocab_size
