"""Finds the chat template that `model.chat_template` names: a file, one that ships, or another model's."""

from dataclasses import dataclass
from pathlib import Path

from rao_kedro.config.data_engineering import TemplateOfModel
from rao_kedro.errors import ModelError
from rao_kedro.models.chat_format import open_tokenizer
from rao_kedro.models.chat_templates import shipped_names, shipped_template
from rao_kedro.models.hub import SETTINGS_FILES, local_checkpoint
from rao_kedro.models.templates import default_template


@dataclass(frozen=True)
class GivenTemplate:
    """A chat template that replaces a model's own.

    Attributes:
        text: The template.
        source: What it is called in messages.
        shipped: Whether it ships with this package.
        control_tokens: The added tokens of the model that it comes from; None if it does not come from a model.
    """

    text: str
    source: str
    shipped: bool = False
    control_tokens: tuple[str, ...] | None = None


def given_template(named: str | TemplateOfModel | None) -> GivenTemplate | None:
    """Return the template that `model.chat_template` names; None if it names none.

    Raises:
        ModelError: There is no such file, shipped template or model, or the model has no chat template.
    """
    if named is None:
        return None
    if isinstance(named, TemplateOfModel):
        return _template_of(named)
    if named in shipped_names():
        return GivenTemplate(shipped_template(named), f"the shipped chat template {named}", shipped=True)
    path = Path(named).expanduser()
    if not path.is_file():
        raise ModelError(
            f"the parameter model.chat_template is {named!r}, which is neither a file nor one of the chat templates "
            f"that ship: {', '.join(shipped_names())}"
        )
    return GivenTemplate(path.read_text(encoding="utf-8"), f"the chat template in {path}")


def _template_of(named: TemplateOfModel) -> GivenTemplate:
    tokenizer = open_tokenizer(local_checkpoint(named.model, named.revision, SETTINGS_FILES))
    if not tokenizer.chat_template:
        raise ModelError(
            f"model.chat_template names {named.model}, whose tokenizer has no chat template: name its chat derivative, "
            f"a file, or one of the templates that ship: {', '.join(shipped_names())}"
        )
    tokens = tuple(str(token) for token in tokenizer.added_tokens_decoder.values())
    return GivenTemplate(default_template(tokenizer), f"the chat template of {named.model}", control_tokens=tokens)
