"""Many texts in one call of the tokenizer: the ids of `rao_kedro.models.chat`, which tokenises text by text."""

import pytest
from chats import STYLES, Style, chat_of, write_chat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rao_kedro.errors import ModelError
from rao_kedro.models import chat_batches
from rao_kedro.models.chat import prompt_token_ids, response_token_ids
from rao_kedro.models.chat_batches import ChatTokenizer
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.models.chat_templates import shipped_names, shipped_template

SPECIAL = "<unk> <s> </s> <bos> <eos> <|im_start|> <|im_end|> <start_of_turn> <end_of_turn> <|begin_of_text|> [INST]"
SPECIAL = (*SPECIAL.split(), "[/INST]", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
STOPS = ("</s>", "<|im_end|>", "<end_of_turn>", "<|eot_id|>")
SHIPPED = {
    name: Style(
        shipped_template(name), SPECIAL, "</s>", ("</s>", "<|im_end|>", "<end_of_turn>", "<|eot_id|>"), "", "<s>"
    )
    for name in shipped_names()
}
KINDS = [*STYLES, *(f"shipped {name}" for name in SHIPPED), "metaspace first", "metaspace always", "prepending"]


def sentence_piece(directory, kind):
    """ChatML on a tokenizer that puts a space before texts, as those of Llama 2, Mistral and EuroLLM do."""
    write_chat(directory, STYLES["ChatML"])
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    if kind == "prepending":
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind.split()[1])
    core.decoder = decoders.Metaspace()
    special = ["<unk>", *STYLES["ChatML"].special, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special)
    core.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    tokenizer.chat_template = STYLES["ChatML"].template
    tokenizer.save_pretrained(directory)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    (directory / "generation_config.json").write_text(f'{{"eos_token_id": {stop}}}')
    return load_chat_format(directory)


@pytest.fixture(scope="module", params=KINDS)
def chat(request, tmp_path_factory):
    directory, kind = tmp_path_factory.mktemp("chat"), request.param
    if kind.startswith(("metaspace", "prepending")):
        return sentence_piece(directory, kind)
    return chat_of(directory, (STYLES | {f"shipped {name}": style for name, style in SHIPPED.items()})[kind])


def plain(chat, group):
    """The tokens of a group text by text; errors as their messages."""

    def said(function, *arguments):
        try:
            return function(chat, group["messages"], *arguments)
        except ModelError as error:
            return str(error)

    prompt = said(prompt_token_ids, True)
    if isinstance(prompt, str):
        return prompt, []
    return prompt, [said(response_token_ids, *each) for each in zip(group["responses"], group["finished"], strict=True)]


def batched(tokenizer, groups):
    def said(ids):
        return str(ids) if isinstance(ids, ModelError) else ids

    return [(said(of.prompt), [said(ids) for ids in of.responses]) for of in tokenizer.tokenize(groups)]


PIECES = ["the fox", " jumps", "over\n", "\n\n", " ", "", "12", "é北京🦊", "▁", "<b>", "<|im", "<|im_end|>", "</s>"]
PIECES += ["<think>", "</think>", "[INST]", "<end_of_turn>", "user", "\ue000", "\t", "'s"]
texts = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
prompts = st.lists(texts, min_size=1, max_size=3).map(
    lambda said: [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
)
systems = st.one_of(st.just([]), texts.map(lambda text: [{"role": "system", "content": text}]))
groups = st.tuples(systems, prompts, st.lists(st.tuples(texts, st.booleans()), min_size=1, max_size=3)).map(
    lambda of: {
        "messages": [*of[0], *of[1]],
        "responses": [text for text, _ in of[2]],
        "finished": [finished for _, finished in of[2]],
    }
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(groups, min_size=1, max_size=4))
def test_a_batch_has_the_ids_and_the_errors_of_its_texts_one_by_one(chat, batch):
    assert batched(ChatTokenizer(chat), batch) == [plain(chat, group) for group in batch]


def group_of(*responses, prompt="the quick brown fox", finished=True):
    messages = [{"role": "user", "content": prompt}]
    return {"messages": messages, "responses": list(responses), "finished": [finished] * len(responses)}


@pytest.mark.parametrize("name", ["ChatML", "Llama-3", "Gemma", "Phi-3", "Qwen3"])
def test_every_text_is_tokenised_once_in_one_call(name, tmp_path, monkeypatch):
    chat = chat_of(tmp_path, STYLES[name])
    tokenizer, calls = ChatTokenizer(chat), []

    def batch(chat, texts):
        calls.append(texts)
        return [e.ids for e in chat.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    monkeypatch.setattr(chat_batches, "_ids_of_batch", batch)
    monkeypatch.setattr(type(chat), "text_ids", lambda *arguments: pytest.fail("one text by itself"))
    long = ["a lazy dog " * 20 + "!", "jumps over " * 30 + "!", "so it does " * 40 + "!"]
    tokenizer.tokenize([group_of(*long[1:], prompt=long[0]), group_of(*long[1:], prompt=long[0], finished=False)])
    (texts,) = calls
    for text in long:
        assert sum(text in one for one in texts) == 1


def test_a_text_that_is_no_unicode_is_an_error_of_its_own(tmp_path):
    chat = chat_of(tmp_path, STYLES["ChatML"])
    ((prompt, (bad, good)),) = batched(ChatTokenizer(chat), [group_of("\ud83d", "fox")])
    assert "not valid Unicode" in bad and good == response_token_ids(chat, [group_of()["messages"][0]], "fox")
    ((prompt, responses),) = batched(ChatTokenizer(chat), [group_of("fox", prompt="\udce9")])
    assert "not valid Unicode" in prompt and responses == []
