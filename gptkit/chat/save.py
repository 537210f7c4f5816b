"""What `/save` writes: the settings as a job, the conversation as Markdown or JSON lines."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gptkit.chat.session import Session


def save(session: Session, name: str) -> Path:
    """Write a new file of the kind that its suffix says; never overwrite one."""
    path = Path(name).expanduser()
    write = WRITERS.get(path.suffix)
    if write is None:
        raise ConfigError(
            f"/save {name}: the name tells what to write", hint=f"end it in {', '.join(WRITERS)}"
        )
    write_new(path, write(session, path.stem))
    return path


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet; raise ConfigError where it is."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists already", hint="give another name") from None
    except OSError as error:
        raise ResourceError(f"can't write {path}: {error.strerror}") from error


def job(session: Session, stem: str) -> str:
    """Return the settings as a job: each row's `text` becomes a first message."""
    from ruamel.yaml import YAML

    settings = session.settings
    document: dict[str, Any] = {"model": session.model_name, "template": session.chosen.name}
    if settings.system:
        document["system"] = settings.system
    document |= {
        "inputs": f"{stem}.jsonl",
        "outputs": f"{stem}.out.jsonl",
        "sampling": {
            "seed": settings.seed,
            "chain": [stage.as_item() for stage in settings.chain],
            **{name: choice.as_item() for name, choice in session.method.named.items()},
        },
        "stop": settings.stop_block(),
    }
    out = io.StringIO()
    out.write(f'# gptkit run {stem}.yaml --input ROWS.jsonl; each row\'s "text" is a message\n')
    YAML().dump(document, out)
    return out.getvalue()


def markdown(session: Session, stem: str) -> str:
    """Return the conversation for readers; an answer that is not whole says so."""
    names = {"user": "You", "assistant": session.model.name}
    parts = [f"# A conversation with {session.model.name}"]
    if session.settings.system:
        parts += ["## System", session.settings.system]
    for turn in session.conversation.path():
        parts += [f"## {names[turn.role]}", turn.text.strip()]
        if turn.is_partial:
            parts.append(f"*({turn.finish_reason})*")
    return "\n\n".join(parts) + "\n"


def json_lines(session: Session, stem: str) -> str:
    """Return the conversation for programs, one turn a line, the instruction first."""
    lines = []
    if session.settings.system:
        record = {"role": "system", "text": session.settings.system}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    for turn in session.conversation.path():
        said: dict[str, Any] = {"role": turn.role, "text": turn.text}
        if turn.role == "assistant":
            said |= {"finish_reason": turn.finish_reason, "seed": turn.seed}
        lines.append(json.dumps(said, ensure_ascii=False) + "\n")
    return "".join(lines)


WRITERS: dict[str, Callable[[Session, str], str]] = {
    ".yaml": job,
    ".md": markdown,
    ".jsonl": json_lines,
}
