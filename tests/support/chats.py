"""Chat formats as published models have them, on a tiny tokenizer: the template, what it writes, where turns end."""

import json
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.models.tiny import CHATML


@dataclass(frozen=True)
class Style:
    """A template and its tokens.

    `stop` are the end-of-turn tokens of generation_config.json; `ordinary` tokens are added, but not special;
    `learned` is what is learned of the response "jumps over".
    """

    template: str
    special: tuple[str, ...]
    eos: str | None
    stop: tuple[str, ...]
    learned: str
    bos: str | None = None
    ordinary: tuple[str, ...] = ()


_LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} "
    "[/INST]{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
_LLAMA_2 = _MISTRAL.replace("}}{{ eos_token }}", "}} {{ eos_token }}")
_PHI_3 = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
_QWEN_3 = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message['content'].split('</think>')[-1] if message['role'] == 'assistant' else message['content'] }}"
    "<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
_PLAIN = (
    "{% for message in messages %}{{ message['role'] }}:\n{{ message['content'] | trim }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)

IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
STYLES = {
    "ChatML": Style(CHATML, IM, "<|im_end|>", ("<|im_end|>",), "jumps over<|im_end|>"),
    "Llama-3": Style(
        _LLAMA_3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|end_of_text|>",
        ("<|end_of_text|>", "<|eot_id|>"),
        "jumps over<|eot_id|>",
        bos="<|begin_of_text|>",
    ),
    "Gemma": Style(
        _GEMMA,
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        ("<eos>", "<end_of_turn>"),
        "jumps over<end_of_turn>",
        bos="<bos>",
    ),
    "Mistral": Style(_MISTRAL, ("<unk>", "<s>", "</s>"), "</s>", ("</s>",), " jumps over</s>", bos="<s>"),
    "Llama-2": Style(_LLAMA_2, ("<unk>", "<s>", "</s>"), "</s>", ("</s>",), " jumps over </s>", bos="<s>"),
    "Phi-3": Style(
        _PHI_3,
        ("<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>"),
        "<|endoftext|>",
        ("<|endoftext|>", "<|assistant|>", "<|end|>"),
        "jumps over<|end|>",
    ),
    "Qwen3": Style(
        _QWEN_3,
        IM,
        "<|im_end|>",
        ("<|im_end|>", "<|endoftext|>"),
        "jumps over<|im_end|>",
        ordinary=("<think>", "</think>"),
    ),
    "no end of turn": Style(_PLAIN, ("</s>",), "</s>", ("</s>",), "jumps over</s>"),
    "the end of a turn is an ordinary token": Style(
        CHATML.replace("<|im_end|>", "<stop>"), IM, None, ("<stop>",), "jumps over<stop>", ordinary=("<stop>",)
    ),
}


def write_chat(directory, style):
    """Write tokenizer and generation_config.json of a style; there are no weights."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=list(style.special), initial_alphabet=alphabet)
    core.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=style.eos, bos_token=style.bos)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in style.ordinary])
    tokenizer.chat_template = style.template
    tokenizer.save_pretrained(directory)
    stop = tokenizer.convert_tokens_to_ids(list(style.stop))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": stop}))
    return directory


def chat_of(directory, style):
    """Write a style and load it."""
    return load_chat_format(write_chat(directory, style))
