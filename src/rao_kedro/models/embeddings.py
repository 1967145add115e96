"""Gives a base model the control tokens that a chat template writes: in its tokenizer, its embeddings and its head.

Only the weight files that hold the embeddings or the head are written anew. Knows nothing of chat templates.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rao_kedro.errors import ModelError
from rao_kedro.files import write_bytes, write_text
from rao_kedro.models.checks import read_settings, weight_files

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

UNUSED = re.compile(r"unused|reserved|placeholder|extra_id|dummy", re.IGNORECASE)
ENOUGH_UNUSED = 8
ALIKE = 0.85  # cosine with the mean row of the unused tokens; rows of trained tokens have about 0.3 in Gemma 3
EMPTY = 1e-3  # of the median norm of the rows


def add_to_tokenizer(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[str], source: str | Path) -> list[str]:
    """Make each of `tokens` one special token, and return those that the vocabulary lacked.

    Raises:
        ModelError: The tokenizer takes no new tokens, or still splits one of them.
    """
    from transformers import AddedToken

    vocabulary = tokenizer.get_vocab()
    known = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    lacking = [token for token in tokens if token not in known]
    try:
        if lacking:
            tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in lacking], special_tokens=True)
        split = [t for t in tokens if tokenizer.convert_tokens_to_ids(t) not in _ids(tokenizer, f"a{t}b")]
    except (NotImplementedError, AttributeError, ValueError, TypeError) as error:
        raise ModelError(
            f"the chat template needs the tokens {', '.join(lacking)}, and the tokenizer of {source} takes no new "
            f"tokens ({type(error).__name__}: {error}): save it as a tokenizer.json, or name a chat template whose "
            "tokens it has"
        ) from error
    if split:
        raise ModelError(
            f"the chat template needs {split[0]!r} as one token, and the tokenizer of {source} splits it although it "
            "was added: name a chat template whose tokens the tokenizer has"
        )
    return [token for token in lacking if token not in vocabulary]


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def give_control_tokens(directory: Path, tokens: Sequence[str]) -> list[str]:
    """Give a checkpoint embeddings of control tokens, and return what was done, as sentences.

    A token that the vocabulary lacks, and a token whose row is empty, gets the mean of the rows of the other tokens, in
    the embeddings and in a head of its own. Rows beyond the vocabulary are used before new ones are added.

    Args:
        directory: A checkpoint with its tokenizer; files that change are replaced, also where they are links.
        tokens: The control tokens.

    Raises:
        ModelError: The tokens cannot be added to the tokenizer or to the model.
    """
    from rao_kedro.models.chat_format import open_tokenizer

    tokenizer = open_tokenizer(directory)
    before = len(tokenizer.added_tokens_decoder)
    old_ids = sorted(tokenizer.get_vocab().values())
    new = add_to_tokenizer(tokenizer, tokens, directory)
    if len(tokenizer.added_tokens_decoder) != before:
        _save_tokenizer(tokenizer, directory)
    names = _names_of_rows(directory)
    embeddings = _stored(directory, names["embeddings"])
    old_ids = [id_ for id_ in old_ids if id_ < len(embeddings)]
    others = [token for token in tokens if token not in new]
    empty = _empty(embeddings, tokenizer, others)
    remarks = _remarks(embeddings, tokenizer, new, empty, others)
    vocabulary = tokenizer.get_vocab()
    if fill := [vocabulary[token] for token in (*new, *empty)]:
        rows = max(len(embeddings), max(fill) + 1)
        _fill_rows(directory, {*names.values()}, old_ids, fill, rows)
        _set_vocabulary(directory, rows)
        _check_that_it_opens(directory, new)
    return remarks


def _save_tokenizer(tokenizer: "PreTrainedTokenizerBase", directory: Path) -> None:
    with TemporaryDirectory() as saved:  # what is written to a link would change the original
        tokenizer.save_pretrained(saved)
        for path in filter(Path.is_file, Path(saved).iterdir()):
            write_bytes(directory / path.name, path.read_bytes())


def _names_of_rows(directory: Path) -> dict[str, str]:
    """Return the stored names of the tensors that have a row for each token."""
    from rao_kedro.models.loading import causal_lm_without_weights

    model: Any = causal_lm_without_weights(directory)
    modules = {id(module): name for name, module in model.named_modules()}
    wanted = {"embeddings": f"{modules[id(model.get_input_embeddings())]}.weight"}
    head = model.get_output_embeddings()
    if head is not None:
        name = modules[id(head)]
        wanted |= {"head": f"{name}.weight", "bias": f"{name}.bias"}
    stored = _stored_names(directory)
    prefix = f"{model.base_model_prefix}."
    found = {
        what: next((n for n in (name, prefix + name, name.removeprefix(prefix)) if n in stored), None)
        for what, name in wanted.items()
    }
    if found["embeddings"] is None:
        raise ModelError(
            f"no embeddings of {type(model).__name__} were found in {directory}, so that it takes no tokens"
        )
    return {what: name for what, name in found.items() if name is not None}


def _stored_names(directory: Path) -> set[str]:
    from safetensors import safe_open

    names: set[str] = set()
    for path in weight_files(directory):
        with safe_open(path, "pt") as file:
            names |= {*file.keys()}
    return names


def _stored(directory: Path, name: str) -> "torch.Tensor":
    from safetensors import safe_open

    for path in weight_files(directory):
        with safe_open(path, "pt") as file:
            if name in file.keys():  # noqa: SIM118 - it is not a dictionary
                return file.get_tensor(name)
    raise ModelError(f"{directory} has no weight {name}")


def _empty(embeddings: "torch.Tensor", tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[str]) -> list[str]:
    """Return the tokens whose rows are (nearly) zero, as in Llama 3's base model."""
    norms, vocabulary = embeddings.float().norm(dim=1), tokenizer.get_vocab()
    least = EMPTY * norms.median()
    return [t for t in tokens if vocabulary[t] >= len(norms) or norms[vocabulary[t]] < least]


def _remarks(
    embeddings: "torch.Tensor",
    tokenizer: "PreTrainedTokenizerBase",
    new: list[str],
    empty: list[str],
    others: Sequence[str],
) -> list[str]:
    remarks = []
    if new:
        remarks.append(
            f"the chat template's tokens {', '.join(new)} were added to the tokenizer; their rows in the embeddings "
            "and the head start from the mean of the others and are learned in supervised fine-tuning"
        )
    if empty:
        remarks.append(f"the rows of {', '.join(empty)} were empty, and start from the mean of the others")
    if alike := [token for token in _like_unused(embeddings, tokenizer, others) if token not in empty]:
        remarks.append(
            f"{', '.join(alike)} looks like a token that was never trained (its embedding is that of the vocabulary's "
            "unused tokens): supervised fine-tuning has to learn it"
        )
    return remarks


def _like_unused(embeddings: "torch.Tensor", tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[str]) -> list[str]:
    vocabulary = tokenizer.get_vocab()
    unused = [i for t, i in vocabulary.items() if UNUSED.search(t) and t[0] in "<[" and i < len(embeddings)]
    if len(unused) < ENOUGH_UNUSED:
        return []
    import torch

    mean = embeddings[unused].float().mean(0)
    rows = {token: embeddings[vocabulary[token]] for token in tokens if vocabulary[token] < len(embeddings)}
    return [t for t, row in rows.items() if torch.cosine_similarity(row.float(), mean, dim=0) > ALIKE]


def _fill_rows(directory: Path, names: set[str], old_ids: list[int], fill: list[int], rows: int) -> None:
    """Set rows of the named tensors to the mean of the rows of `old_ids`, after lengthening them to `rows`."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    known = sorted({*old_ids} - {*fill})
    for path in weight_files(directory):
        with safe_open(path, "pt") as file:
            metadata, here = file.metadata(), names & {*file.keys()}
        if not here:
            continue
        weights = load_file(path)
        for name in here:
            old = weights[name]
            longer = torch.zeros(max(rows, len(old)), *old.shape[1:], dtype=old.dtype)
            longer[: len(old)] = old
            longer[fill] = old[known].float().mean(0).to(old.dtype)
            weights[name] = longer
        path.unlink()  # a link to the original
        save_file(weights, path, metadata)


def _set_vocabulary(directory: Path, rows: int) -> None:
    settings = read_settings(directory / "config.json")
    for part in (settings, settings.get("text_config")):
        if part and "vocab_size" in part:
            part["vocab_size"] = rows
    write_text(directory / "config.json", json.dumps(settings, indent=2))


def _check_that_it_opens(directory: Path, new: list[str]) -> None:
    from rao_kedro.models.loading import causal_lm_without_weights

    try:
        causal_lm_without_weights(directory)
    except ModelError as error:
        raise ModelError(
            f"the chat template needs the tokens {', '.join(new)}, and this model takes no new tokens ({error}): name "
            "a chat template whose tokens it has"
        ) from error
