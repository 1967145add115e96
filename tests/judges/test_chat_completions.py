"""Answers of a chat server: in order, paid for once, kept and found again."""

import json
import re
import time

import pytest
from chat_questions import DIALOGUES, SAMPLING, echo, sent_fields, server_at
from chat_server import chat_server, reply

from rao_kedro.errors import GenerationError
from rao_kedro.identity import combined_hash
from rao_kedro.judges import chat_completions
from rao_kedro.judges.client import ChatSampling
from rao_kedro.judges.metering import Usage
from rao_kedro.shards import JSON, Shards


def test_answers_come_in_the_order_of_the_dialogues_with_their_log_probs():
    with chat_server(echo) as (url, requests):
        answers = server_at(url, concurrency=4).answers(DIALOGUES, SAMPLING)
    assert [answer.text for answer in answers] == [f"question {i}" for i in range(12)]
    assert answers[0].tokens[0].logprobs == {"a": -0.1, "b": -2.5}
    asked = requests[0]
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("judge", 4, 0.0)
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 2)


def test_an_answer_is_paid_for_once_and_a_corrupt_one_again(tmp_path):
    with chat_server(echo) as (url, requests):
        server = server_at(url, cache_dir=tmp_path)
        first = server.answers(DIALOGUES[:5], SAMPLING)
        assert server.answers(DIALOGUES, SAMPLING)[:5] == first and len(requests) == 12
        one, other, *_ = tmp_path.rglob("*.shard")
        one.write_text('{"text": ')
        other.write_bytes(b"\xff")
        assert server.answers(DIALOGUES, SAMPLING)[:5] == first and len(requests) == 14
        server.answers(DIALOGUES[:1], ChatSampling(max_tokens=5, top_logprobs=2))
        assert len(requests) == 15  # another question


def test_equal_dialogues_are_asked_once(tmp_path):
    with chat_server(echo) as (url, requests):
        answers = server_at(url, cache_dir=tmp_path).answers([*DIALOGUES[:2] * 16], SAMPLING)
    assert [answer.text for answer in answers] == ["question 0", "question 1"] * 16 and len(requests) == 2


def test_an_interrupt_pays_for_nothing_more(monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(chat_completions, "wait", interrupted)
    with chat_server(echo) as (url, requests), pytest.raises(KeyboardInterrupt):
        server_at(url, concurrency=2).answers(DIALOGUES, SAMPLING)
    assert len(requests) < len(DIALOGUES)


def test_what_was_answered_before_the_end_is_kept(tmp_path):
    def fails_at_the_sixth(request, number):
        return (500, "{}", {}) if number >= 6 else echo(request, number)

    with chat_server(lambda *asked: behaves[0](*asked)) as (url, requests):
        server, behaves = server_at(url, concurrency=1, cache_dir=tmp_path, max_retries=0), [fails_at_the_sixth]
        with pytest.raises(GenerationError, match=r"5 of 12 answers are kept, run again to go on from there"):
            server.answers(DIALOGUES, SAMPLING)
        requests.clear()
        behaves[0] = echo
        assert len(server_at(url, cache_dir=tmp_path).answers(DIALOGUES, SAMPLING)) == 12
    assert len(requests) == 12 - 5


def test_another_server_with_a_model_of_the_same_name_is_asked_itself(tmp_path):
    def says(text):
        return lambda request, number: reply((text, {"a": 0.0}))

    with chat_server(says("one")) as (one, of_one), chat_server(says("two")) as (two, of_two):
        for url in (one, two, f"{one}/", one.upper().replace("V1", "v1")):
            (answer,) = server_at(url, cache_dir=tmp_path).answers(DIALOGUES[:1], SAMPLING)
            assert answer.text == ("two" if url == two else "one")
    assert len(of_one) == len(of_two) == 1


def test_what_serves_known_content_is_not_asked_again_wherever_it_is_served(tmp_path):
    with chat_server(echo) as (one, of_one), chat_server(echo) as (two, of_two):
        for url in (one, two):
            server_at(url, cache_dir=tmp_path, serves_content=True).answers(DIALOGUES[:1], SAMPLING)
    assert (len(of_one), len(of_two)) == (1, 0)


def test_what_is_in_flight_at_the_end_is_kept_and_counted(tmp_path):
    def fails_first(request, number):
        return (401, "{}", {}) if number == 1 else (time.sleep(0.1), echo(request, number))[1]

    with chat_server(fails_first) as (url, _), pytest.raises(GenerationError) as error:
        server_at(url, concurrency=4, cache_dir=tmp_path).answers(DIALOGUES, SAMPLING)
    kept = len(list(tmp_path.rglob("*.shard")))
    assert kept >= 3 and re.search(rf"\({kept} of 12 answers are kept", str(error.value))


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"max_tokens": 9}, {"max_tokens": 9, "temperature": 0.0}),
        ({"max_tokens": None, "temperature": None}, {}),
        ({"max_tokens_field": "max_completion_tokens"}, {"max_completion_tokens": 2048, "temperature": 0.0}),
        ({"temperature": 0.7}, {"max_tokens": 2048, "temperature": 0.7}),
        *(
            ({name: value}, {"max_tokens": 2048, "temperature": 0.0, name: value})
            for name, value in [
                *[("top_p", 0.5), ("top_k", 7), ("min_p", 0.1), ("repetition_penalty", 1.1), ("stop", ["END"])],
                *[("seed", 3), ("reasoning_effort", "low"), ("chat_template_kwargs", {"enable_thinking": False})],
            ]
        ),
        ({"extra_body": {"service_tier": "flex"}}, {"max_tokens": 2048, "temperature": 0.0, "service_tier": "flex"}),
    ],
)
def test_what_is_set_is_sent_in_place_of_the_protocol_and_answers_are_kept_by_it(options, fields):
    asked, name = sent_fields(**options)
    assert asked == fields and name != sent_fields()[1]


def test_replies_are_found_by_the_request_and_the_server_and_may_lack_what_later_versions_know(tmp_path):
    """What was paid for is not lost to a change of the code: this key and these fields are those of version 0.1.0."""
    kept_by = {"model": "judge at http://same/v1", "max_tokens": 4, "temperature": 0.0, "top_logprobs": 0}
    key = combined_hash(json.dumps(kept_by | {"messages": DIALOGUES[0]}, sort_keys=True))
    reply = {"text": "<think>It is.</think> Yes.", "tokens": [], "prompt_tokens": 5, "completion_tokens": 6}
    Shards(tmp_path, JSON).write(key, reply)
    server = server_at("http://same/v1", cache_dir=tmp_path)
    (answer,) = server.answers(DIALOGUES[:1], ChatSampling(4))
    assert (answer.text, answer.thinking, answer.completion_tokens) == ("Yes.", "It is.", 6)
    assert server.meter.usage == Usage(reused=1, reused_prompt_tokens=5, reused_completion_tokens=6)
