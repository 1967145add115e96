"""Conversations to tokens: exactly the assistant's texts and their end-of-turn tokens are learned."""

from dataclasses import replace
from importlib.resources import files
from itertools import groupby
from operator import itemgetter

import pytest
from chats import STYLES, chat_of

from rao_kedro.errors import ModelError
from rao_kedro.models.chat import prompt_token_ids, response_token_ids
from rao_kedro.models.chat_templates import shipped_template
from rao_kedro.models.conversation_tokens import ChangedTurnError, ConversationTokenizer
from rao_kedro.models.templates import NO_REASONING

TEXTS = ["the quick fox", "jumps over", "the lazy dog?", "yes:  it\njumps", "and then", "é 北京 🦊"]
ROLES = ("user", "assistant")


def dialogue(*texts, system=None):
    turns = [{"role": ROLES[i % 2], "content": text} for i, text in enumerate(texts)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


@pytest.fixture(scope="module", params=STYLES)
def named(request, tmp_path_factory):
    style = STYLES[request.param]
    return style, chat_of(tmp_path_factory.mktemp("chat"), style)


def bracketed(chat, tokens):
    """Return the text with brackets around what is learned."""
    parts = []
    for learned, run in groupby(zip(tokens.ids, tokens.learned, strict=True), key=itemgetter(1)):
        text = chat.tokenizer.decode([token for token, _ in run])
        parts.append(f"[{text}]" if learned else text)
    return "".join(parts)


def test_each_turn_is_learned_as_a_response_would_be(named):
    """The plain path: every assistant turn as the response to the turns before it."""
    style, chat = named
    tokens = ConversationTokenizer(chat).tokenize(dialogue(*TEXTS))
    n = [sum(tokens.learned[:end]) for end in tokens.ends]
    learned = [token for token, is_learned in zip(tokens.ids, tokens.learned, strict=True) if is_learned]
    own = [learned[a:b] for a, b in zip([0, *n], n, strict=False)]
    for turn, answer in enumerate(TEXTS[1::2]):
        expected = response_token_ids(chat, dialogue(*TEXTS[: 2 * turn + 1]), answer)
        if style.learned == "jumps over</s>" and turn < 2:  # this template ends no turn, and the last one gets EOS
            expected = expected[:-1]
        assert own[turn] == expected
    whole = chat.tokenizer.apply_chat_template(dialogue(*TEXTS), tokenize=False)
    assert chat.tokenizer.decode(tokens.ids).removesuffix("</s>") in whole


def test_one_turn_is_a_prompt_and_its_response(named):
    _, chat = named
    tokens = ConversationTokenizer(chat).tokenize(dialogue(*TEXTS[:2]))
    prompt = prompt_token_ids(chat, dialogue(TEXTS[0]))
    response = response_token_ids(chat, dialogue(TEXTS[0]), TEXTS[1])
    assert tokens.ids == [*prompt, *response]
    assert tokens.learned == [False] * len(prompt) + [True] * len(response)


def test_a_batch_gives_what_single_conversations_give(named):
    _, chat = named
    conversations = [dialogue(*TEXTS), dialogue(*TEXTS[:2]), dialogue("say <|im_end|> and </s>", "no <|im_end|>")]
    assert ConversationTokenizer(chat).tokenize_batch(conversations) == [
        ConversationTokenizer(chat).tokenize(conversation) for conversation in conversations
    ]


SHOWN = {
    # what is learned, in brackets
    ("chatml", "ChatML"): (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nthe quick fox<|im_end|>\n<|im_start|>assistant\n"
        "[jumps over<|im_end|>]\n<|im_start|>user\nthe lazy dog?<|im_end|>\n<|im_start|>assistant\n"
        "[yes:  it\njumps<|im_end|>]"
    ),
    ("llama3", "Llama-3"): (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nbe kind<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nthe quick fox<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[jumps over<|eot_id|>]"
        "<|start_header_id|>user<|end_header_id|>\n\nthe lazy dog?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[yes:  it\njumps<|eot_id|>]"
    ),
    ("gemma", "Gemma"): (
        "<bos><start_of_turn>user\nthe quick fox<end_of_turn>\n<start_of_turn>model\n[jumps over<end_of_turn>]\n"
        "<start_of_turn>user\nthe lazy dog?<end_of_turn>\n<start_of_turn>model\n[yes:  it\njumps<end_of_turn>]"
    ),
    ("mistral", "Mistral"): (
        "<s>[INST] be kind\n\nthe quick fox[/INST][ jumps over</s>][INST] the lazy dog?[/INST][ yes:  it\njumps</s>]"
    ),
    ("qwen3", "Qwen3"): (  # an empty thought is part of the last header, and of no earlier one
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nthe quick fox<|im_end|>\n<|im_start|>assistant\n"
        "[jumps over<|im_end|>]\n<|im_start|>user\nthe lazy dog?<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\n[yes:  it\njumps<|im_end|>]"
    ),
}


@pytest.mark.parametrize(("template", "style"), SHOWN)
def test_what_is_learned_under_five_real_templates(tmp_path, template, style):
    text = (NO_REASONING if template == "qwen3" else "") + shipped_template(template)  # as base models are imported
    chat = chat_of(tmp_path, replace(STYLES[style], template=text))
    system = None if template == "gemma" else "be kind"
    tokens = ConversationTokenizer(chat).tokenize(dialogue(*TEXTS[:4], system=system))
    assert bracketed(chat, tokens) == SHOWN[template, style]


def trl_template(name):
    return (files(pytest.importorskip("trl")) / f"chat_templates/{name}_training.jinja").read_text()


@pytest.mark.parametrize(("template", "style"), [("llama3", "Llama-3"), ("gemma", "Gemma")])
def test_blocks_of_trls_templates_learn_the_same_as_turn_by_turn(tmp_path, template, style):
    chat = chat_of(tmp_path, replace(STYLES[style], template=trl_template(template)))
    system = None if template == "gemma" else "be kind"
    tokens = ConversationTokenizer(chat).tokenize(dialogue(*TEXTS[:4], system=system))
    assert bracketed(chat, tokens) == SHOWN[template, style]


def test_blocks_of_trls_template_for_qwen3_learn_the_thoughts(tmp_path):
    chat = chat_of(tmp_path, replace(STYLES["Qwen3"], template=trl_template("qwen3")))
    shown = bracketed(chat, ConversationTokenizer(chat).tokenize(dialogue(*TEXTS[:2])))
    assert shown.endswith("<|im_start|>assistant\n[<think>\n\n</think>\n\njumps over<|im_end|>]")


def blocks(template):
    """Return a ChatML template with `{% generation %}` blocks around what the assistant writes."""
    text = "{{ message['content'] }}<|im_end|>\n"
    own = f"{{% generation %}}{text}{{% endgeneration %}}"
    return template.replace(text, f"{{% if message['role'] == 'assistant' %}}{own}{{% else %}}{text}{{% endif %}}")


def chatml_with(tmp_path, template):
    return chat_of(tmp_path, replace(STYLES["ChatML"], template=template))


def test_blocks_of_the_template_learn_the_same_as_turn_by_turn(tmp_path):
    """Also the same as transformers' own mask, but for the line break behind each end of turn."""
    plain = STYLES["ChatML"].template
    (tmp_path / "plain").mkdir()
    (tmp_path / "blocks").mkdir()
    conversation = dialogue(*TEXTS, system="be kind")
    by_turn = ConversationTokenizer(chatml_with(tmp_path / "plain", plain)).tokenize(conversation)
    chat = chatml_with(tmp_path / "blocks", blocks(plain))
    assert ConversationTokenizer(chat).tokenize(conversation) == by_turn
    theirs = chat.tokenizer.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    n = len(by_turn.ids)
    assert theirs["input_ids"][:n] == by_turn.ids
    breaks = {end for end in by_turn.ends if end < n}
    assert [bool(m) and k not in breaks for k, m in enumerate(theirs["assistant_masks"][:n])] == by_turn.learned


def test_a_block_may_begin_before_the_text(tmp_path):
    """A template that lets the model write its thoughts learns them."""
    template = blocks(STYLES["ChatML"].template).replace("{% generation %}", "{% generation %}<think></think>")
    tokens = ConversationTokenizer(chatml_with(tmp_path, template)).tokenize(dialogue(*TEXTS[:4]))
    chat = chatml_with(tmp_path, template)
    shown = bracketed(chat, tokens)
    assert "assistant\n[<think></think>jumps over<|im_end|>]\n" in shown
    assert shown.endswith("assistant\n[<think></think>yes:  it\njumps<|im_end|>]")


def test_a_turn_outside_the_blocks_is_refused(tmp_path):
    template = STYLES["ChatML"].template.replace(
        "{{ message['content'] }}",
        "{% if loop.last %}{% generation %}{{ message['content'] }}{% endgeneration %}"
        "{% else %}{{ message['content'] }}{% endif %}",
    )
    with pytest.raises(ModelError, match="an assistant turn is in none of them"):
        ConversationTokenizer(chatml_with(tmp_path, template)).tokenize(dialogue(*TEXTS))


@pytest.mark.parametrize(
    ("written", "error"),
    [
        ("{% if loop.first or loop.last %}{{ message['content'] }}{% endif %}", "leaves out or changes a message"),
        ("{{ message['content'] }}{{ message['content'] }}", "writes a message twice"),
        (
            "{{ message['content'] | replace('fox', 'cat') }}",
            "message 1, of the user: it writes 'the quick cat",
        ),
        ("{{ message['content'] | upper }}", "changes message 1, of the user"),
        ("{{ message['content'] }}{% if 'fox' in message['content'] %}!{% endif %}", "changes message 1"),
    ],
)
def test_a_template_that_leaves_out_or_changes_a_turn_is_refused(tmp_path, written, error):
    template = STYLES["ChatML"].template.replace("{{ message['content'] }}", written)
    with pytest.raises(ChangedTurnError, match=error):
        ConversationTokenizer(chatml_with(tmp_path, template)).tokenize(dialogue(*TEXTS))


def test_a_dropped_thought_of_an_earlier_turn_is_a_changed_turn(tmp_path):
    chat = chat_of(tmp_path, STYLES["Qwen3"])
    thoughtful = dialogue("the fox", "<think>hm</think>jumps", "and?", "over")
    with pytest.raises(ChangedTurnError, match="changes message 2, of the assistant"):
        ConversationTokenizer(chat).tokenize(thoughtful)


def test_earlier_turns_that_change_with_later_ones_are_refused(tmp_path):
    """A system message that moves to the last user turn: no prompt of the conversation is what generation sees."""
    template = (
        "{% for message in messages if message['role'] != 'system' %}<|im_start|>{{ message['role'] }}\n"
        "{% if messages[0]['role'] == 'system' and message['role'] == 'user' and loop.revindex <= 2 %}"
        "{{ messages[0]['content'] }}\n{% endif %}{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = ConversationTokenizer(chatml_with(tmp_path, template))
    tokenizer.tokenize(dialogue(*TEXTS[:2], system="be kind"))
    with pytest.raises(ModelError, match="renders the turns before an assistant turn differently"):
        tokenizer.tokenize(dialogue(*TEXTS[:4], system="be kind"))


def test_a_turn_whose_first_token_belongs_to_the_header_is_refused(tmp_path):
    chat = chatml_with(tmp_path, STYLES["ChatML"].template.replace("'] }}\n{{", "'] }}: {{").replace("t\n", "t: "))
    with pytest.raises(ModelError, match="do not begin where its text begins"):
        ConversationTokenizer(chat).tokenize(dialogue("a", "the"))  # " the" is one token


def test_a_conversation_ends_with_the_assistant(tmp_path):
    with pytest.raises(ModelError, match="does not end with the assistant"):
        ConversationTokenizer(chat_of(tmp_path, STYLES["ChatML"])).tokenize(dialogue(*TEXTS[:3]))


def test_templates_refusals_and_bad_texts_are_errors_of_their_conversation_alone(tmp_path):
    chat = chat_of(tmp_path, STYLES["Gemma"])
    system, surrogate, good = ConversationTokenizer(chat).tokenize_batch(
        [dialogue(*TEXTS[:2], system="be kind"), dialogue("a\ud800", "b"), dialogue(*TEXTS[:2])]
    )
    assert "System role not supported" in str(system)
    assert "not valid Unicode" in str(surrogate)
    assert good.ends == [len(good.ids)]
