"""A plugin's package before it has been written: a small working example of its kind.

The texts lie beside this file, those of all kinds in `package`, the rest in a folder for each kind.
`string.Template` fills in the names. They are no `.py` files, since they are no code of ours.
"""

from __future__ import annotations

import keyword
import re
import tempfile
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from gptkit import __version__
from gptkit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

ABOUT = {
    "sampler": "A sampler",
    "tokenizer": "A tokenizer",
    "stopping": "A stopping criterion",
    "template": "A few-shot template",
    "drafter": "A drafter",
    "strategy": "A strategy",
    "command": "A slash command",
}
"""The kinds of plugin that there is a skeleton of, each as its README calls it."""
LONGEST_NAME = 40
_OURS = ("plugins", "prompts")
"""A package with such a name would have the module of one of ours."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What is to be written, once kind and name are known to be good."""

    kind: str
    name: str

    @property
    def distribution(self) -> str:
        """What users install."""
        return f"gptkit-{self.name.replace('_', '-')}"

    @property
    def module(self) -> str:
        """What its entry point names."""
        return f"gptkit_{self.name}"

    def files(self) -> dict[str, str]:
        """Return the texts by their paths in the package's folder."""
        here = files(__package__)
        package, own = here / "package", here / self.kind
        source = f"src/{self.module}"
        texts = {
            "README.md": package / "README.md.tmpl",
            "LICENSE": package / "LICENSE.tmpl",
            ".gitignore": package / "gitignore.tmpl",
            "pyproject.toml": package / "pyproject.toml.tmpl",
            f"{source}/__init__.py": own / "module.py.tmpl",
            f"tests/test_{self.name}.py": own / "test.py.tmpl",
        }
        data = ["py.typed"]
        resource = own / "resource.yaml.tmpl"
        if resource.is_file():
            texts[f"{source}/{self.name}.yaml"] = resource
            data.append("*.yaml")
        blanks = self._blanks(data, own)
        made = {path: _filled(text, blanks) for path, text in texts.items()}
        return {**made, f"{source}/py.typed": ""}

    def write(self, parent: Path) -> Path:
        """Write the package into a new folder in `parent`, all of it or nothing; return it."""
        folder = parent / self.distribution
        if folder.exists() or folder.is_symlink():
            raise ConfigError(f"{folder} exists", hint="take another name or another --output")
        if parent.exists() and not parent.is_dir():
            raise ConfigError(f"--output: {parent} is not a folder", hint="give a folder, or none")
        texts = self.files()
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{self.distribution}.") as begun:
            whole = Path(begun, self.distribution)
            for path, text in texts.items():
                (whole / path).parent.mkdir(parents=True, exist_ok=True)
                (whole / path).write_text(text, encoding="utf-8")
            whole.rename(folder)
        return folder

    def _blanks(self, data: list[str], own: Traversable) -> dict[str, str]:
        blanks = {
            "name": self.name,
            "class_name": self._class_name(own),
            "distribution": self.distribution,
            "module": self.module,
            "about": f"{ABOUT[self.kind]} for gptkit: {self.name}.",
            "data": ", ".join(f'"{one}"' for one in data),
            "gptkit_version": ".".join(__version__.split(".")[:2]),
            "year": str(date.today().year),
        }
        return {**blanks, "usage": _filled(own / "usage.md.tmpl", blanks)}

    def _class_name(self, own: Traversable) -> str:
        """Return the name in capitals; one that the code uses already gets a `My` before it."""
        made = "".join(word.capitalize() for word in self.name.split("_"))
        texts = [(own / f"{which}.py.tmpl").read_text(encoding="utf-8") for which in _CODE]
        is_taken = any(re.search(rf"\b{made}\b", text) for text in texts)
        return f"My{made}" if is_taken or keyword.iskeyword(made) else made


_CODE = ("module", "test")


def _filled(resource: Traversable, blanks: dict[str, str]) -> str:
    return Template(resource.read_text(encoding="utf-8")).substitute(blanks)


def skeleton(kind: str, name: str) -> Skeleton:
    """Return what to write for a kind and a name, or raise ConfigError."""
    if kind not in ABOUT:
        raise ConfigError(
            f"there is no skeleton of a '{kind}'",
            hint=did_you_mean(kind, ABOUT) or f"kinds: {', '.join(ABOUT)}",
        )
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
        better = "_".join(words).lstrip("0123456789_")
        raise ConfigError(
            f"the name {name!r} is not lower_snake",
            hint=f"write {better}" if better else "small letters, digits and single underscores",
        )
    if len(name) > LONGEST_NAME:
        raise ConfigError(f"the name has {len(name)} letters, {LONGEST_NAME} are the most")
    if name in _OURS:
        raise ConfigError(f"gptkit_{name} is a module of gptkit itself", hint="take another name")
    return Skeleton(kind, name)
