"""The chat templates that ship. Knows no tokenizer."""

from pathlib import Path

_FOLDER = Path(__file__).parent


def shipped_names() -> list[str]:
    """Return the names of the templates that ship."""
    return sorted(path.stem for path in _FOLDER.glob("*.jinja"))


def shipped_template(name: str) -> str:
    """Return the text of a template that ships.

    Raises:
        FileNotFoundError: There is none of that name.
    """
    return (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
