"""The file formats of byte-level BPE: read each into one `Vocabulary`, write our own.

We read files ourselves: tiktoken's loaders keep copies of local files too, by path, and never look
again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .files import read_bytes, read_json, read_text, refused, whole_numbers, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MAX_ID = 1 << 24

# The patterns are tiktoken's (openai_public.py, version 0.14): equal to the published ones, faster.
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
KNOWN_FILES: dict[str, tuple[str, dict[str, int]]] = {
    # sha256 of the rank file: pattern and control tokens, which the file itself lacks
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930": (
        GPT2,
        {"<|endoftext|>": 50256},
    ),
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": (
        CL100K,
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
}

# GPT-2 writes each byte as a letter: the printable ones as themselves, the others from U+0100 on.
# Its byte tokens have their ids in this order, and so have ours.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_ORDER = bytes(_PRINTABLE + [b for b in range(256) if b not in _PRINTABLE])
LETTERS = {
    chr(b if i < len(_PRINTABLE) else 256 + i - len(_PRINTABLE)): b
    for i, b in enumerate(BYTE_ORDER)
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens with their ids in the order of merging, the pattern that cuts text, control tokens."""

    ranks: dict[bytes, int]
    pattern: str
    special: dict[str, int]

    @property
    def is_known_pattern(self) -> bool:
        """Whether the pattern is one that never backtracks without end."""
        return self.pattern in (GPT2, CL100K)


def read(path: Path) -> Vocabulary:
    """Read a vocabulary from a file or folder; raise CheckpointError with file and line."""
    if path.is_dir():
        path = _choose(path)
    if path.suffix == ".json":
        data = read_json(path)
        if isinstance(data.get("model"), dict):
            return _tokenizer_json(path, data)
        if isinstance(data.get("pattern"), str):
            return _own(path, data)
        merges = path.with_name("vocab.bpe" if path.name == "encoder.json" else "merges.txt")
        return _vocab_and_merges(path, data, merges)
    if path.name in ("vocab.bpe", "merges.txt"):
        names = path.with_name("encoder.json" if path.name == "vocab.bpe" else "vocab.json")
        return _vocab_and_merges(names, read_json(names), path)
    if path.with_suffix(".json").name == OWN and path.with_name(OWN).is_file():
        return _own(path.with_name(OWN), read_json(path.with_name(OWN)))
    return _rank_file(path)


OWN = "bpe.json"
_WANTED = (OWN, "tokenizer.json", "encoder.json", "vocab.json")


def _choose(folder: Path) -> Path:
    for name in _WANTED:
        if (folder / name).is_file():
            return folder / name
    rank_files = sorted(folder.glob("*.tiktoken"))
    if len(rank_files) == 1:
        return rank_files[0]
    raise refused(
        f"{folder} has {'several' if rank_files else 'no'} BPE files: looked for "
        f"{', '.join(_WANTED)}, one *.tiktoken",
        hint="name the file itself",
    )


def write(folder: Path, vocabulary: Vocabulary) -> None:
    """Write what `read` needs: a rank file in tiktoken's format, and pattern and control tokens."""
    ordered = sorted(vocabulary.ranks.items(), key=lambda item: item[1])
    lines = (b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ordered)
    (folder / OWN).with_suffix(".tiktoken").write_bytes(b"".join(lines))
    write_json(folder / OWN, {"pattern": vocabulary.pattern, "special": dict(vocabulary.special)})


# One reader for each format -------------------------------------------------------------------


def _own(path: Path, data: Mapping[str, Any]) -> Vocabulary:
    ranks_path = path.with_suffix(".tiktoken")
    special = whole_numbers(f"{path}: special", data.get("special", {}))
    return _checked(
        ranks_path, _ranks(ranks_path, read_bytes(ranks_path)), data["pattern"], special
    )


def _rank_file(path: Path) -> Vocabulary:
    data = read_bytes(path)
    pattern, special = KNOWN_FILES.get(hashlib.sha256(data).hexdigest(), (GPT2, {}))
    return _checked(path, _ranks(path, data), pattern, dict(special))


def _ranks(path: Path, data: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        token, _, rank = line.partition(b" ")
        try:
            decoded = base64.b64decode(token, validate=True)
        except binascii.Error as error:
            raise refused(f"{path}:{number}: {token[:40]!r} is not base64") from error
        if not decoded or not rank.isdigit() or int(rank[:9]) >= MAX_ID:
            raise refused(f"{path}:{number}: not a token in base64, a space and its rank")
        if decoded in ranks:
            raise refused(f"{path}:{number}: token {decoded!r} is given twice")
        ranks[decoded] = int(rank)
    return ranks


def _vocab_and_merges(path: Path, data: Mapping[str, Any], merges_path: Path) -> Vocabulary:
    vocab = whole_numbers(str(path), data)
    merges: list[tuple[str, list[str]]] = []
    for number, line in enumerate(read_text(merges_path).split("\n"), start=1):
        if line.strip() and not (number == 1 and line.startswith("#version")):
            merges.append((f"{merges_path}:{number}", line.rstrip("\r").split(" ")))
    return _checked(path, *_from_merges(path, vocab, merges, GPT2, {}))


def _tokenizer_json(path: Path, data: Mapping[str, Any]) -> Vocabulary:
    model = data["model"]
    for key, wanted in (
        ("type", ("BPE", None)),
        ("byte_fallback", (False, None)),
        ("continuing_subword_prefix", ("", None)),
        ("end_of_word_suffix", ("", None)),
    ):
        if model.get(key) not in wanted:
            raise refused(f"{path}: model.{key} {model[key]!r} is not supported", hint=_BYTE)
    if data.get("normalizer") is not None:
        raise refused(f"{path}: a normalizer is not supported", hint=_BYTE)
    added = data.get("added_tokens") or []
    merges = model.get("merges")
    try:
        special = whole_numbers(f"{path}: added_tokens", {t["content"]: t["id"] for t in added})
        pairs = [m.split(" ") if isinstance(m, str) else [str(x) for x in m] for m in merges]
    except (TypeError, KeyError) as error:
        raise refused(f"{path}: 'added_tokens' or 'merges' is not a list we read") from error
    vocab = whole_numbers(f"{path}: model.vocab", model.get("vocab"))
    numbered = ((f"{path}: merge {n}", pair) for n, pair in enumerate(pairs, start=1))
    pattern = _pattern(path, data.get("pre_tokenizer"))
    return _checked(path, *_from_merges(path, vocab, numbered, pattern, special))


_BYTE = "only byte-level BPE without normalizer is read here"


def _pattern(path: Path, cutter: Any) -> str:
    """Return the pattern of a `pre_tokenizer`; only the common byte-level ones are supported."""
    match cutter:
        case {"type": "ByteLevel", "add_prefix_space": False, **rest} if rest.get(
            "use_regex", True
        ):
            return GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": str(pattern)},
                    "behavior": "Isolated",
                } as cut,
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if not cut.get("invert"):
            return pattern
    raise refused(f"{path}: its pre_tokenizer is not supported", hint=_BYTE)


def _from_merges(
    path: Path,
    vocab: Mapping[str, int],
    merges: Iterable[tuple[str, list[str]]],
    pattern: str,
    special: Mapping[str, int],
) -> tuple[dict[bytes, int], str, dict[str, int]]:
    """Turn letters into bytes, and check that the ids stand in the order of the merges."""
    made = {letter for letter in LETTERS if letter in vocab}
    last = -1
    for where, pair in merges:
        token = "".join(pair)
        if len(pair) != 2 or not all(part in vocab for part in (*pair, token)):
            raise refused(f"{where}: {' '.join(pair)!r} is no merge of tokens in {path.name}")
        if vocab[token] < last:
            raise refused(
                f"{where}: makes id {vocab[token]} after id {last}; ids must follow the merges"
            )
        last = vocab[token]
        made.add(token)
    control = dict(special)
    ranks: dict[bytes, int] = {}
    for token, token_id in vocab.items():
        if token in special:
            if special[token] != token_id:
                raise refused(f"{path}: {token!r} has the ids {token_id}, {special[token]}")
        elif token in made:
            try:
                ranks[bytes(LETTERS[letter] for letter in token)] = token_id
            except KeyError as error:
                raise refused(f"{path}: {token!r} is not written in bytes") from error
        elif token[:1] + token[-1:] in ("<>", "[]"):
            control[token] = token_id
        else:
            raise refused(f"{path}: no merge makes the token {token!r}")
    return ranks, pattern, control


def _checked(
    path: Path, ranks: dict[bytes, int], pattern: str, special: dict[str, int]
) -> Vocabulary:
    """Refuse what tiktoken would meet with a panic, or only while it encodes."""
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise refused(f"{path}: no token for the byte 0x{byte:02x}", hint=_BYTE)
    owners: dict[int, object] = {}
    for token, token_id in [*ranks.items(), *special.items()]:
        if token_id in owners:
            raise refused(f"{path}: {owners[token_id]!r} and {token!r} have one id, {token_id}")
        owners[token_id] = token
    hole = next((i for i in range(max(ranks.values())) if i not in owners), None)
    if hole is not None:
        raise refused(f"{path}: no token has the id {hole}", hint="is the file complete?")
    return Vocabulary(ranks, pattern, special)
