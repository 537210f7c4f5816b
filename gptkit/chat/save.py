"""What `/save` writes: the settings as a job, the conversation as Markdown or JSON lines."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gptkit.chat.conversation import Turn
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
        "inputs": f"{stem}.in.jsonl",
        "outputs": f"{stem}.out.jsonl",
        "sampling": {
            "seed": settings.seed,
            "chain": [stage.as_item() for stage in settings.chain if not stage.is_off],
            **{name: choice.as_item() for name, choice in session.method.named.items()},
        },
        "stop": settings.stop_block(),
    }
    out = io.StringIO()
    out.write(f'# gptkit run {stem}.yaml --input ROWS.jsonl; each row\'s "text" is a message\n')
    YAML().dump(document, out)
    return out.getvalue()


def markdown(session: Session, stem: str) -> str:
    """Return the conversation for readers."""
    return as_markdown(
        session.conversation.path(), model=session.model.name, system=session.settings.system
    )


def json_lines(session: Session, stem: str) -> str:
    """Return the conversation for programs."""
    return as_json_lines(session.conversation.path(), system=session.settings.system)


def as_markdown(turns: Sequence[Turn], *, model: str, system: str | None, when: str = "") -> str:
    """Return turns for readers; an answer that is not whole says so."""
    names = {"user": "You", "assistant": model}
    parts = [f"# A conversation with {model}{', ' * bool(when)}{when}"]
    if system:
        parts += ["## System", system]
    for turn in turns:
        parts += [f"## {names[turn.role]}", turn.text.strip()]
        if turn.is_partial:
            parts.append("*[interrupted]*")
    return "\n\n".join(parts) + "\n"


def as_json_lines(turns: Sequence[Turn], *, system: str | None) -> str:
    """Return turns for programs, one a line: role and content, how an answer ended, its seed."""
    lines: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        said: dict[str, Any] = {"role": turn.role, "content": turn.text}
        if turn.role == "assistant":
            said |= {"finish_reason": turn.finish_reason, "seed": turn.seed}
        lines.append(said)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


WRITERS: dict[str, Callable[[Session, str], str]] = {
    ".yaml": job,
    ".md": markdown,
    ".jsonl": json_lines,
}
