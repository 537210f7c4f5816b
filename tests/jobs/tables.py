"""Files of rows for tests, and what hypothesis puts into them."""

from __future__ import annotations

from hypothesis import strategies as st

from gptkit.jobs.readers import delimited, open_inputs, parquet, stream, text

LIMITED = (delimited, parquet, stream, text)
"""The modules that know how long a row may be."""

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs"]), min_size=1, max_size=8),
    min_size=2,
    max_size=5,
    unique=True,
).filter(lambda names: "id" not in names and all(name.strip() == name for name in names))


def write(folder, data, name="in.jsonl"):
    """Write a file; return its path."""
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def rows_of(folder, data, name="in.jsonl", **options):
    """Write a file and read its rows."""
    write(folder, data, name)
    return list(open_inputs(name, folder, **options))


def limit(monkeypatch, n_bytes):
    """Let a row have n bytes at most."""
    for module in LIMITED:
        monkeypatch.setattr(module, "MAX_ROW_BYTES", n_bytes)
