"""A generator as a model of lm-evaluation-harness: same text and log-probs, nothing computed twice."""

import shutil

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from rao_kedro.config.generation import GenerationParameters, SamplingParameters
from rao_kedro.errors import GenerationError, ParameterError
from rao_kedro.evals.downstream.harness_model import GeneratorLM, TextLM
from rao_kedro.evals.responses import Response
from rao_kedro.generation.base import Completion, Likelihood
from rao_kedro.generation.generators import make_generator
from rao_kedro.models.chat import prompt_token_ids
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm

QUESTIONS = ["the fox", "the lazy dog and the quick brown fox", "dog?"]


class Counting:
    """A generator that counts what it is asked, and dies when told to."""

    def __init__(self, dies_at_call=None, text=None, finish_reason="stop"):
        self.calls, self.dies_at_call, self.text, self.finish_reason = [], dies_at_call, text, finish_reason

    def _count(self, prompts):
        if len(self.calls) == self.dies_at_call:
            raise KeyboardInterrupt
        self.calls.append(prompts)

    def stream(self, prompt_ids, sampling):
        assert sampling.greedy
        for i, ids in enumerate(prompt_ids):
            self._count(ids)
            yield i, [Completion(self.text or f"{len(ids)} tokens\n\nQ: next", [5], self.finish_reason)]

    def continuation_logps(self, prompt_ids, continuations):
        self._count(prompt_ids)
        return [[Likelihood(-float(sum(ids)), len(ids) == 1) for ids in asked] for asked in continuations]


def lm_of(tiny_checkpoint, generator, shards_dir=None, max_model_len=128, kind=GeneratorLM):
    how = GenerationParameters(backend="transformers", dtype="float32", max_model_len=max_model_len, shard_size=2)
    return kind(tiny_checkpoint, how, lambda: generator, shards_dir)


def generation(text, **how):
    return Instance("generate_until", {}, (text, {"until": [], "max_gen_toks": 6, **how}), 0)


def choices(text, *continuations):
    return [Instance("loglikelihood", {}, (text, continuation), i) for i, continuation in enumerate(continuations)]


def test_it_writes_what_the_generator_writes_to_the_chat(tiny_checkpoint):
    generator = make_generator("transformers", tiny_checkpoint, dtype="float32")
    lm = lm_of(tiny_checkpoint, generator)
    prompts = [prompt_token_ids(lm.chat, [{"role": "user", "content": text}]) for text in QUESTIONS]
    written = dict(generator.stream(prompts, SamplingParameters(temperature=0, max_tokens=6)))
    assert lm.generate_until([*map(generation, QUESTIONS)]) == [written[i][0].text for i in range(3)]


def test_text_ends_before_the_first_stop_string(tiny_checkpoint):
    lm = lm_of(tiny_checkpoint, Counting())
    n = len(prompt_token_ids(lm.chat, [{"role": "user", "content": "dog"}]))
    requests = [generation("dog", until=["Q:", "\n\n"]), generation("dog"), generation("dog", until="tok")]
    assert lm.generate_until(requests) == [f"{n} tokens", f"{n} tokens\n\nQ: next", f"{n} "]


@pytest.mark.parametrize(
    ("text", "finish_reason", "read", "reason"),
    [
        ("<think>Q: why?\n\nso</think>\n\nfox\n\nQ: next", "length", "fox", "stop"),  # ended by an `until` string
        ("<think>Q: why?\n\nso</think>\n\nfox", "length", "fox", "length"),
        ("<think>Q: why?\n\nso", "length", "", "length"),
        ("fox", "stop", "fox", "stop"),
    ],
)
def test_tasks_read_what_stands_behind_the_thinking_and_all_of_it_is_kept(
    tiny_checkpoint, tmp_path, text, finish_reason, read, reason
):
    generator = Counting(text=text, finish_reason=finish_reason)
    for kind in (GeneratorLM, TextLM):
        for _ in range(2):  # the second time from the kept shard
            [found] = lm_of(tiny_checkpoint, generator, tmp_path, kind=kind).generate_until(
                [generation("dog", until=["Q:", "\n\n"])]
            )
            assert (found, found.response) == (read, Response(text, reason))
    assert len(generator.calls) == 2


def test_a_cut_thought_that_the_template_opened_has_no_answer(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "thinker")
    template = "{{ messages[0]['content'] }}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    (tmp_path / "thinker/chat_template.jinja").write_text(template)
    cut, whole = (
        lm_of(tmp_path / "thinker", Counting(text=text)).generate_until([generation("dog")])[0]
        for text in ("The answer is 7", "It is 7.</think>\nThe answer is 8")
    )
    assert (cut, cut.response.thinking) == ("", "The answer is 7")
    assert (whole, whole.response.thinking) == ("The answer is 8", "It is 7.")


def test_a_question_is_asked_once_for_all_of_its_continuations(tiny_checkpoint):
    lm = lm_of(tiny_checkpoint, counting := Counting())
    requests = [*choices("the fox", "a", "b"), *choices("the dog", "b", "a"), *choices("the fox", "b and a")]
    ids = [lm.tok_encode("the fox" + letter)[-1] for letter in "ab"]
    a, b = -float(ids[0]), -float(ids[1])
    found = lm.loglikelihood(requests)
    assert [logp for logp, _ in found[:4]] == [a, b, b, a]
    assert [greedy for _, greedy in found] == [True] * 4 + [False]
    assert sum(map(len, counting.calls)) == 2


def test_kept_log_probs_are_not_computed_again(tiny_checkpoint, tmp_path):
    requests = choices("the fox", " a", " b and c")
    found = lm_of(tiny_checkpoint, Counting(), tmp_path).loglikelihood(requests)
    lm = lm_of(tiny_checkpoint, None, tmp_path)
    lm.make = pytest.fail
    assert lm.loglikelihood(requests) == found


@pytest.fixture(scope="module")
def both(tiny_checkpoint):
    """This project's model and the harness's own one."""
    model = load_causal_lm(tiny_checkpoint)
    theirs = HFLM(pretrained=model, tokenizer=load_tokenizer(tiny_checkpoint), batch_size=2, max_length=126)
    generator = make_generator("transformers", tiny_checkpoint, dtype="float32")
    return lm_of(tiny_checkpoint, generator, kind=TextLM), theirs


def test_log_probs_are_those_of_the_harnesss_own_model(both):
    ours, theirs = both
    requests = [
        *choices("the fox", " jumps over the dog", " dog", " "),
        *choices("", "the lazy dog", "the"),
        *choices("the dog and ", "the fox"),
        *choices(ours.apply_chat_template([{"role": "user", "content": "fox?"}]), "dog", "the dog"),
    ]
    for (logp, greedy), (expected, expected_greedy) in zip(
        ours.loglikelihood(requests), theirs.loglikelihood(requests), strict=True
    ):
        assert (logp, greedy) == (pytest.approx(expected, abs=1e-4), expected_greedy)
    texts = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(["the fox", "the dog " * 90])]
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts), rel=1e-5)


def test_text_is_that_of_the_harnesss_own_model(both, caplog):
    ours, theirs = both
    few_shot = [{"role": "user", "content": "fox?"}, {"role": "assistant", "content": "dog"}]
    prompts = [
        "the fox",
        "the lazy dog " * 60,  # loses its beginning
        ours.apply_chat_template([*few_shot, {"role": "user", "content": "dog?"}]),
        ours.apply_chat_template(few_shot, add_generation_prompt=False),
    ]
    assert prompts[2:] == [
        theirs.apply_chat_template([*few_shot, {"role": "user", "content": "dog?"}]),
        theirs.apply_chat_template(few_shot, add_generation_prompt=False),
    ]
    requests = [generation(prompt, until=["a", "\n"], max_gen_toks=8) for prompt in prompts]
    written = theirs.generate_until(requests)
    assert len(set(written)) > 1
    ours.generation = ours.generation.model_copy(update={"max_model_len": 126})
    assert ours.generate_until(requests) == written
    assert caplog.text.count("lose their beginning to fit max_model_len 126") == 1


def test_a_killed_run_goes_on_behind_its_finished_shards(tiny_checkpoint, tmp_path):
    requests = [generation("fox " * i) for i in range(1, 6)]
    uninterrupted = lm_of(tiny_checkpoint, Counting()).generate_until(requests)
    with pytest.raises(KeyboardInterrupt):
        lm_of(tiny_checkpoint, Counting(dies_at_call=4), tmp_path).generate_until(requests)
    assert lm_of(tiny_checkpoint, resumed := Counting(), tmp_path).generate_until(requests) == uninterrupted
    assert len(resumed.calls) == 1
    lm = lm_of(tiny_checkpoint, None, tmp_path)
    lm.make = pytest.fail
    assert lm.generate_until(requests) == uninterrupted


@pytest.mark.parametrize("how", [{"do_sample": True}, {"temperature": 0.7}])
def test_a_task_that_samples_is_refused(tiny_checkpoint, how):
    with pytest.raises(ParameterError, match="this model decodes greedily"):
        lm_of(tiny_checkpoint, Counting()).generate_until([generation("dog", **how)])


def test_what_does_not_fit_is_refused(tiny_checkpoint):
    lm = lm_of(tiny_checkpoint, Counting(), max_model_len=8)
    with pytest.raises(GenerationError, match="leaves 2 beside 6 to write: raise max_model_len"):
        lm.generate_until([generation("fox " * 20)])
    with pytest.raises(GenerationError, match="leaves 5 beside 3 to write: raise max_model_len"):
        lm.loglikelihood(choices("the fox " * 20, "a"))
    lm = lm_of(tiny_checkpoint, Counting(), max_model_len=6, kind=TextLM)
    with pytest.raises(GenerationError, match="needs 6 tokens after a prompt, and max_model_len is 6: raise"):
        lm.generate_until([generation("fox")])
