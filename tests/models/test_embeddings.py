"""A base model that gets a chat template with tokens that it lacks."""

import json

import pytest
import torch
from changed_checkpoints import copy_of, edit, edit_weights, import_model, in_shards, with_own_head
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from rao_kedro.errors import ModelError
from rao_kedro.models.chat import prompt_token_ids, response_token_ids
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.models.tiny import build_tiny_checkpoint

LLAMA_3 = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
MESSAGES = [{"role": "user", "content": "the fox"}]


@pytest.fixture
def base(tmp_path, tiny_checkpoint):
    """A base model: it has no chat template, and none of Llama 3's tokens."""
    base = without_template(copy_of(tiny_checkpoint, tmp_path / "base"))
    (end,) = ids_of(base, ["<|im_end|>"])
    edit_weights(base, lambda weights: weights["model.embed_tokens.weight"][end].fill_(0.1))  # it pads, so it was empty
    return base


def without_template(directory):
    (directory / "chat_template.jinja").unlink()
    return directory


def rows_of(directory):
    model = AutoModelForCausalLM.from_pretrained(directory)
    return model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()


def state_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def ids_of(directory, tokens=LLAMA_3):
    return AutoTokenizer.from_pretrained(directory).convert_tokens_to_ids(tokens)


def test_tokens_that_the_vocabulary_lacks_start_from_the_mean_row(tmp_path, base, caplog):
    before, rows = state_of(base), rows_of(base)[0]
    output = import_model(tmp_path, base, chat_template="llama3")
    embeddings, head = rows_of(output)
    n = len(rows)
    assert ids_of(output) == [n, n + 1, n + 2] and len(embeddings) == n + 3
    assert torch.equal(embeddings[:n], rows) and torch.equal(head, embeddings)
    assert torch.allclose(embeddings[n:], rows.mean(0).expand(3, -1))
    assert json.loads((output / "config.json").read_text())["vocab_size"] == n + 3
    assert f"tokens {', '.join(LLAMA_3)} were added to the tokenizer" in caplog.text
    assert state_of(base) == before
    load_causal_lm(output)  # which compares the weights with the files


def test_each_is_one_token_and_a_turn_ends_with_the_templates_end(tmp_path, base):
    chat = load_chat_format(import_model(tmp_path, base, chat_template="llama3"))
    prompt, response = prompt_token_ids(chat, MESSAGES), response_token_ids(chat, MESSAGES, "jumps")
    header, _, end = ids_of(tmp_path / "out")
    assert prompt.count(header) == 2 and response[-1] == end
    settings = json.loads((tmp_path / "out/generation_config.json").read_text())
    eos = AutoTokenizer.from_pretrained(tmp_path / "out").eos_token_id
    assert settings["eos_token_id"] == [eos, end] and chat.end_of_turn_ids == (eos, end)
    assert {*LLAMA_3} <= {*chat.control_tokens}  # so that a user cannot write them


def test_a_head_of_its_own_gets_its_own_mean(tmp_path, tiny_checkpoint):
    base = without_template(with_own_head(tiny_checkpoint, tmp_path / "base"))
    edit(base / "config.json", tie_word_embeddings=False)
    edit_weights(base, lambda weights: weights.update({"lm_head.weight": weights["lm_head.weight"] * 2 + 1}))
    embeddings, head = rows_of(import_model(tmp_path, base, chat_template="llama3"))
    own, own_head = rows_of(base)
    assert torch.allclose(embeddings[-1], own.mean(0)) and torch.allclose(head[-1], own_head.mean(0))
    assert torch.equal(head[:-3], own_head)


def test_rows_beyond_the_vocabulary_are_used_before_new_ones(tmp_path):
    base = without_template(build_tiny_checkpoint(tmp_path / "base", vocab_size=302))
    n = len(AutoTokenizer.from_pretrained(base))
    assert n < 302
    rows = rows_of(base)[0]
    embeddings = rows_of(import_model(tmp_path, base, chat_template="llama3"))[0]
    assert ids_of(tmp_path / "out") == [n, n + 1, n + 2] and len(embeddings) == max(302, n + 3)
    assert torch.allclose(embeddings[n : n + 3], rows[:n].mean(0).expand(3, -1))
    assert torch.equal(embeddings[:n], rows[:n])


def test_only_the_shard_with_the_rows_is_written_anew(tmp_path, base):
    shards = without_template(in_shards(copy_with_template(base, tmp_path / "whole"), tmp_path / "shards"))
    output = import_model(tmp_path, shards, chat_template="llama3")
    weights = sorted(output.glob("model-*.safetensors"))
    changed = [path for path in weights if not path.is_symlink()]
    assert len(changed) == 1 and len(weights) > 2
    assert {*load_file(changed[0])} == {*load_file(shards / changed[0].name)}
    assert len(rows_of(output)[0]) == len(rows_of(shards)[0]) + 3


def copy_with_template(base, directory):
    copy_of(base, directory)
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    return directory


def test_a_model_that_has_the_tokens_is_linked_as_it_is(tmp_path, base):
    output = import_model(tmp_path, base, chat_template="chatml")
    assert (output / "model.safetensors").is_symlink() and (output / "tokenizer.json").is_symlink()


def test_empty_rows_start_from_the_mean_of_the_others(tmp_path, base, caplog):
    """Llama 3's base model has such rows for the tokens of its chats."""
    start, end = ids_of(base, ["<|im_start|>", "<|im_end|>"])
    edit_weights(base, lambda weights: weights["model.embed_tokens.weight"][start].zero_())
    embeddings = rows_of(import_model(tmp_path, base, chat_template="chatml"))[0]
    rows = rows_of(base)[0]
    others = [i for i in range(len(rows)) if i != start]
    assert torch.allclose(embeddings[start], rows[others].mean(0)) and torch.equal(embeddings[end], rows[end])
    assert "the rows of <|im_start|> were empty, and start from the mean" in caplog.text


def test_a_token_whose_row_is_that_of_unused_tokens_is_told_of(tmp_path, base, caplog):
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<unused{i}>" for i in range(9)], special_tokens=True)
    tokenizer.save_pretrained(base)
    same, n = torch.randn(32, generator=torch.Generator().manual_seed(0)), len(tokenizer)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def change(weights):
        rows = weights["model.embed_tokens.weight"]
        rows = torch.cat([rows, same.expand(n - len(rows), -1) + 0.01])
        rows[end] = same
        weights["model.embed_tokens.weight"] = rows.contiguous()

    edit_weights(base, change)
    edit(base / "config.json", vocab_size=n)
    import_model(tmp_path, base, chat_template="chatml")
    assert "<|im_end|> looks like a token that was never trained" in caplog.text
    assert "<|im_start|>, <|im_end|> looks" not in caplog.text


def test_tokens_of_another_models_template_are_those_of_its_tokenizer(tmp_path, base, tiny_checkpoint):
    other = copy_of(tiny_checkpoint, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["~turn~"], special_tokens=True)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>", "~turn~")
    tokenizer.save_pretrained(other)
    output = import_model(tmp_path, base, chat_template={"model": str(other)})
    (turn,) = ids_of(output, ["~turn~"])
    assert prompt_token_ids(load_chat_format(output), MESSAGES).count(turn) == 2


def with_bos(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.unk_token_id)]
    )
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.save_pretrained(base)
    return tokenizer.bos_token_id


def test_a_shipped_template_writes_bos_where_the_models_texts_begin_with_it(tmp_path, base, caplog):
    bos = with_bos(base)
    chat = load_chat_format(import_model(tmp_path, base, chat_template="chatml"))
    ids = prompt_token_ids(chat, MESSAGES)
    assert ids[0] == bos and ids.count(bos) == 1
    assert "texts begin with <|endoftext|>, so the shipped chat template chatml writes it first" in caplog.text
    caplog.clear()
    chat = load_chat_format(import_model(tmp_path, base, chat_template="llama3"))
    assert prompt_token_ids(chat, MESSAGES).count(bos) == 1 and "writes it first" not in caplog.text


def test_a_file_without_bos_is_told_of_and_kept(tmp_path, base, tiny_checkpoint, caplog):
    with_bos(base)
    file = tiny_checkpoint / "chat_template.jinja"
    output = import_model(tmp_path, base, chat_template=str(file))
    assert (output / "chat_template.jinja").read_text() == file.read_text()
    assert f"begin with <|endoftext|>, but the chat template in {file} does not write it" in caplog.text


def test_a_tokenizer_without_a_padding_token_gets_one_that_ends_no_turn(tmp_path, base, caplog):
    edit(base / "tokenizer_config.json", pad_token=None)
    output = import_model(tmp_path, base, chat_template="llama3")
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.pad_token == "<|endoftext|>" and tokenizer.pad_token_id not in (ids_of(output)[-1], 2)
    assert json.loads((output / "generation_config.json").read_text())["pad_token_id"] == tokenizer.pad_token_id
    assert "had no padding token: it is <|endoftext|> in the import" in caplog.text


def test_a_tokenizer_that_takes_no_tokens_is_refused(tmp_path, base, monkeypatch):
    add_tokens = PreTrainedTokenizerBase.add_tokens

    def refuse(self, tokens, special_tokens=False):
        if special_tokens:
            raise NotImplementedError("a fixed vocabulary")
        return add_tokens(self, tokens)

    monkeypatch.setattr(PreTrainedTokenizerBase, "add_tokens", refuse)
    with pytest.raises(ModelError, match=r"needs the tokens <\|start_header_id\|>, .* takes no new tokens .* a fixed"):
        import_model(tmp_path, base, chat_template="llama3")
    assert not (tmp_path / "out").exists()


def test_a_model_that_takes_no_tokens_is_refused(tmp_path, base, monkeypatch):
    from rao_kedro.models import embeddings

    monkeypatch.setattr(embeddings, "_set_vocabulary", lambda directory, rows: None)  # as if it had another name
    with pytest.raises(ModelError, match=r"needs the tokens .*, and this model takes no new tokens .*has the shape"):
        import_model(tmp_path, base, chat_template="llama3")


def test_a_base_model_without_a_template_is_told_which_ones_ship(tmp_path, base):
    with pytest.raises(ModelError, match=r"has no chat template.*\{model: NAME\}.*ships: chatml, gemma, gemma3"):
        import_model(tmp_path, base)
