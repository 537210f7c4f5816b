"""A training recipe: the YAML blocks data, tokenizer, model, training, sample and output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from gptkit.config import Document, Items, Settings, data_folder, read_yaml
from gptkit.errors import ConfigError, did_you_mean
from gptkit.model.config import NAMED_SIZES, GPTConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

BUNDLED = Path(__file__).parent / "recipes"
CHAT_TOKENS = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
SEPARATOR = "<|endoftext|>"
DROPOUTS = ("embd_dropout", "attn_dropout", "resid_dropout")

Dtype = Literal["float32", "bfloat16", "float16"]
Item = str | dict[str, Any]


class SourceSettings(Settings):
    """One source of documents: exactly one of text, conversations and rows."""

    text: str | None = Field(None, description="a text file; one document")
    conversations: str | None = Field(
        None, description="YAML files (a pattern) with lists of turns, user and assistant by turns"
    )
    rows: str | None = Field(
        None, description="YAML or JSONL files (a pattern) with rows of a few-shot template"
    )
    template: str | None = Field(None, description="the template that makes documents of them")
    expand: int | None = Field(
        None, ge=1, le=100_000, description="expansions of each conversation or row by the grammar"
    )
    k: tuple[int, int] = Field(
        (0, 0), strict=False, description="fewest and most examples that stand before a row"
    )
    join: tuple[int, int] = Field(
        (1, 1), strict=False, description="fewest and most conversations that make one document"
    )
    system: tuple[str, ...] = Field(
        (), strict=False, description="instructions; one of them opens every fourth document"
    )
    repeat: int = Field(1, ge=1, le=10_000, description="how often each document is there")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in ("text", "conversations", "rows") if getattr(self, kind)]
        if len(given) != 1:
            raise ValueError("a source is one of text, conversations and rows")
        if self.text is None and self.template is None:
            raise ValueError(f"{given[0]} need a template")
        if not 0 <= self.k[0] <= self.k[1]:
            raise ValueError(f"k is [fewest, most], got {list(self.k)}")
        if not 1 <= self.join[0] <= self.join[1]:
            raise ValueError(f"join is [fewest, most], at least 1, got {list(self.join)}")
        return self


class DataSettings(Settings):
    """What to learn from: one text file, or sources of documents."""

    text: str | None = Field(None, description="a text file, split once into training, validation")
    sources: tuple[SourceSettings, ...] = Field(
        (), strict=False, description="or several sources of documents"
    )
    validation: float = Field(0.1, gt=0, lt=1, description="share that is kept for validation")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.text is None) == (not self.sources):
            raise ValueError("data has either text or sources")
        return self


class VocabularySettings(Settings):
    """How a tokenizer is trained on the corpus."""

    vocab_size: int | None = Field(None, ge=2, le=1_000_000, description="ids, special included")
    special: Items[str] | None = Field(
        None, description="control tokens; with sources those of chat by default"
    )


class TrainingSettings(Settings):
    """How long and how fast to learn: AdamW, a linear warm-up, then a cosine."""

    max_steps: int = Field(ge=1, le=10**9, description="optimizer steps")
    micro_batch_size: int = Field(12, ge=1, le=65_536, description="blocks computed together")
    grad_accum_steps: int = Field(1, ge=1, le=65_536, description="micro-batches of a step")
    learning_rate: float = Field(1e-3, gt=0, le=10, description="after the warm-up")
    min_learning_rate: float = Field(1e-4, ge=0, le=10, description="where the cosine ends")
    warmup_steps: int = Field(
        100, ge=0, le=10**9, description="steps in which the rate rises from 0"
    )
    weight_decay: float = Field(0.1, ge=0, le=10, description="of matrices alone")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's memory of the gradient")
    beta2: float = Field(0.99, ge=0, lt=1, description="AdamW's memory of its square")
    grad_clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0 is off")
    eval_interval: int = Field(250, ge=1, le=10**9, description="steps between evaluations")
    eval_batches: int = Field(20, ge=1, le=10**6, description="micro-batches of an evaluation")
    save_interval: int = Field(500, ge=1, le=10**9, description="steps between checkpoints")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of weights, split, blocks and dropout")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the matrix products; weights are kept in float32"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class SampleSettings(Settings):
    """What the model is asked to say while it learns."""

    prompts: tuple[str, ...] = Field(("",), strict=False, description="empty starts from nothing")
    every: int = Field(1, ge=0, le=10**9, description="evaluations between samples; 0 is never")
    chain: tuple[Item, ...] = Field(("sample",), strict=False, description="stages, in order")
    max_new_tokens: int = Field(100, ge=1, le=100_000)


class OutputSettings(Settings):
    """Where the checkpoint goes and what it says of itself."""

    folder: str | None = Field(None, description="out/ and the recipe's name by default")
    dtype: Dtype = Field("float32", description="in which weights are stored")
    chat_template: str | None = Field(None, description="the template that `gptkit chat` uses")
    sampling: Items[Item] | None = Field(
        None, description="the chain that serves where the user names none"
    )
    keep_state: bool = Field(
        True, description="keep the optimizer in the last checkpoint, so that it can train on"
    )


class RecipeSettings(Settings):
    """The blocks of a recipe."""

    data: DataSettings
    tokenizer: str | dict[str, VocabularySettings] = Field(
        description="NAME:PATH, or NAME with what it needs to learn its vocabulary"
    )
    model: dict[str, Any] = Field(
        description="GPTConfig, or `size` and what differs; `dropout` sets all three"
    )
    training: TrainingSettings
    sample: SampleSettings = Field(default_factory=lambda: SampleSettings.model_validate({}))
    output: OutputSettings = Field(default_factory=lambda: OutputSettings.model_validate({}))

    @model_validator(mode="after")
    def _one_tokenizer(self) -> Self:
        if isinstance(self.tokenizer, dict) and len(self.tokenizer) != 1:
            raise ValueError("tokenizer is one name with its settings")
        return self


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe that was read and checked, with the document it came from."""

    name: str
    folder: Path
    document: Document
    settings: RecipeSettings
    output: Path
    """The folder of the checkpoint."""

    def model_config(self, vocab_size: int) -> GPTConfig:
        """Return the model's config; raise ConfigError with the line of what is wrong."""
        block = dict(self.settings.model)
        size = block.pop("size", None)
        if size is not None and size not in NAMED_SIZES:
            raise ConfigError(
                f"{self.document.where(('model', 'size'))}: unknown size {size!r}",
                hint=did_you_mean(str(size), NAMED_SIZES) or f"there are: {', '.join(NAMED_SIZES)}",
            )
        base = NAMED_SIZES[size].model_dump() if size else {}
        base["vocab_size"] = vocab_size
        if "dropout" in block:
            base.update(dict.fromkeys(DROPOUTS, block.pop("dropout")))
        filled = {**self.document.data, "model": {**base, **block}}
        config = replace(self.document, data=filled).build(GPTConfig, at=("model",))
        if config.vocab_size < vocab_size:
            raise ConfigError(
                f"{self.document.where(('model', 'vocab_size'))}: vocab_size {config.vocab_size:,} "
                f"is below the tokenizer's {vocab_size:,}",
                hint="leave it out to take the tokenizer's",
            )
        return config

    def find(self, pattern: str) -> list[Path]:
        """Return what a path or pattern names, beside the recipe or else in GPTKIT_DATA."""
        if Path(pattern).is_absolute():
            return self._find_absolute(Path(pattern))
        places = [place for place in (self.folder, data_folder()) if place is not None]
        for place in places:
            if found := _matches(place, pattern):
                return found
        looked = " and ".join(str(place.absolute()) for place in places)
        unset = "" if len(places) > 1 else "; it is not set"
        hint = f"GPTKIT_DATA names the folder of corpora{unset}"
        if Path(pattern).exists():
            hint = f"the working directory has it: give {Path(pattern).absolute()}"
        raise ConfigError(
            f"{self.document.name}: no file '{pattern}': looked in {looked}", hint=hint
        )

    def _find_absolute(self, path: Path) -> list[Path]:
        found = _matches(Path(path.anchor), str(path.relative_to(path.anchor)))
        if not found:
            inside = next(above for above in path.parents if above.exists())
            raise ConfigError(
                f"{self.document.name}: no file '{path}'",
                hint=f"{inside} exists, what follows it does not",
            )
        return found


def _matches(place: Path, pattern: str) -> list[Path]:
    if (place / pattern).exists():
        return [place / pattern]
    return sorted(place.glob(pattern)) if any(char in pattern for char in "*?[") else []


def bundled() -> list[str]:
    """Return the names of the recipes that ship with gptkit."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml"))


def read_recipe(
    name: str, assignments: Iterable[str] = (), *, output: Path | None = None
) -> Recipe:
    """Read a recipe, a file or the name of a bundled one; `assignments` are those of --set."""
    path = Path(name)
    if not path.exists():
        if name not in bundled():
            raise ConfigError(
                f"no recipe {name}: neither a file nor one of {', '.join(bundled())}",
                hint=did_you_mean(name, bundled()) or "give a YAML file",
            )
        path = BUNDLED / f"{name}.yaml"
    document = read_yaml(path, path.name if path.parent == BUNDLED else name)
    for assignment in assignments:
        document = document.set(assignment)
    settings = document.build(RecipeSettings)
    folder = output or Path(settings.output.folder or f"out/{path.stem}")
    if folder.name in ("", ".."):  # the checkpoint is written beside, under the folder's name
        folder = folder.resolve()
    recipe = Recipe(path.stem, path.parent, document, settings, folder)
    recipe.model_config(vocab_size=1)  # the vocabulary comes later, mistakes are told now
    return recipe
