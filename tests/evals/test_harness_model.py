"""A generator as a model of lm-evaluation-harness: same text and log-probs, nothing computed twice."""

import pytest
from lm_eval.api.instance import Instance

from rao_kedro.errors import InferenceError, ParameterError
from rao_kedro.evals.harness_model import GeneratorLM
from rao_kedro.inference.generators import Completion, make_generator
from rao_kedro.models.chat import prompt_token_ids
from rao_kedro.schemas.generation import GenerationParameters, SamplingParameters

QUESTIONS = ["the fox", "the lazy dog and the quick brown fox", "dog?"]


class Counting:
    """A generator that counts what it is asked, and dies when told to."""

    def __init__(self, dies_at_call=None):
        self.calls, self.dies_at_call = [], dies_at_call

    def _count(self, prompts):
        if len(self.calls) == self.dies_at_call:
            raise KeyboardInterrupt
        self.calls.append(prompts)

    def stream(self, prompt_ids, sampling):
        assert sampling.greedy
        for i, ids in enumerate(prompt_ids):
            self._count(ids)
            yield i, [Completion(f"{len(ids)} tokens\n\nQ: next", [5], "stop")]

    def next_token_logps(self, prompt_ids, token_ids):
        self._count(prompt_ids)
        return [[-float(token) for token in tokens] for tokens in token_ids]


def lm_of(tiny_checkpoint, generator, shards_dir=None, max_model_len=128):
    how = GenerationParameters(backend="transformers", dtype="float32", max_model_len=max_model_len, shard_size=2)
    return GeneratorLM(tiny_checkpoint, how, lambda: generator, shards_dir)


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


def test_choices_are_asked_about_once_per_question(tiny_checkpoint):
    lm = lm_of(tiny_checkpoint, counting := Counting())
    requests = [*choices("the fox", "a", "b"), *choices("the dog", "b", "a")]
    ids = [lm.tok_encode("the fox" + letter)[-1] for letter in "ab"]
    a, b = -float(ids[0]), -float(ids[1])
    found = lm.loglikelihood(requests)
    assert [logp for logp, _ in found] == [a, b, b, a]
    assert [best for _, best in found] == [a > b, b > a, b > a, a > b]
    assert sum(map(len, counting.calls)) == 2


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
    with pytest.raises(ParameterError, match="this model writes greedily"):
        lm_of(tiny_checkpoint, Counting()).generate_until([generation("dog", **how)])


def test_what_does_not_fit_is_refused(tiny_checkpoint):
    lm = lm_of(tiny_checkpoint, Counting(), max_model_len=8)
    with pytest.raises(InferenceError, match="leaves 2 beside 6 to write: raise max_model_len"):
        lm.generate_until([generation("fox " * 20)])
    with pytest.raises(InferenceError, match="only single tokens are compared"):
        lm.loglikelihood(choices("the fox", "and the lazy dog"))
