"""Answers from a chat server: in order, paid for once, and a clear end where there is none."""

import logging
import re
import socket
import time

import openai
import pytest
from chat_server import chat_server, reply

from rao_kedro.errors import InferenceError, ParameterError
from rao_kedro.inference import chat_completions
from rao_kedro.inference.chat_completions import ChatSampling, ChatServer

SAMPLING = ChatSampling(max_tokens=4, top_logprobs=2)
DIALOGUES = [[{"role": "user", "content": f"question {i}"}] for i in range(12)]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.001)


def echo(request, number):
    time.sleep(0.002 * (number % 3))
    return reply((request["messages"][-1]["content"], {"a": -0.1, "b": -2.5}))


def server_at(base_url, **options):
    return ChatServer(base_url, "judge", **({"max_retries": 2} | options))


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
        one, other, *_ = tmp_path.rglob("*.json")
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


def test_a_server_that_is_busy_at_first_is_asked_again():
    def busy(request, number):
        return (429, "{}", {"Retry-After": "0.01"}) if number <= 2 else echo(request, number)

    with chat_server(busy) as (url, requests):
        assert server_at(url).answers(DIALOGUES[:1], SAMPLING)[0].text == "question 0"
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda request, number: (500, "{}", {}), "cannot be asked: .*500"),
        (lambda request, number: (429, "{}", {}), "cannot be asked: .*429"),
        (lambda request, number: (401, "{}", {}), "refuses the key of the environment variable OPENAI_API_KEY"),
        (lambda request, number: (200, "<html>hello</html>", {}), "does not answer as a chat server does: '<html>"),
        (lambda request, number: (200, '{"choices": []}', {}), "does not answer as a chat server does"),
        (lambda request, number: (200, '{"choices": [{"message": {"content": "7"}}]}', {}), "gives no log-probs"),
    ],
    ids=["broken", "busy", "key", "html", "no choices", "no log-probs"],
)
def test_a_server_that_does_not_answer_ends_with_what_it_said(answer, message):
    with chat_server(answer) as (url, _), pytest.raises(InferenceError, match=rf"127\.0\.0\.1.* {message}"):
        server_at(url).answers(DIALOGUES, SAMPLING)


def test_a_slow_server_and_one_that_is_away_end_too():
    with (
        chat_server(lambda request, number: (time.sleep(1), echo(request, number))[1]) as (url, _),
        pytest.raises(InferenceError, match=r"did not answer within 0\.05 s: raise timeout"),
    ):
        server_at(url, timeout=0.05, max_retries=0).answers(DIALOGUES[:1], SAMPLING)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        with pytest.raises(InferenceError, match="cannot be asked: Connection error"):
            server_at(url).answers(DIALOGUES[:1], SAMPLING)


def test_what_was_answered_before_the_end_is_kept(tmp_path):
    def fails_at_the_sixth(request, number):
        return (500, "{}", {}) if number >= 6 else echo(request, number)

    with chat_server(lambda *asked: behaves[0](*asked)) as (url, requests):
        server, behaves = server_at(url, concurrency=1, cache_dir=tmp_path, max_retries=0), [fails_at_the_sixth]
        with pytest.raises(InferenceError, match=r"5 of 12 answers are kept, run again to go on from there"):
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
        return (400, "{}", {}) if number == 1 else (time.sleep(0.1), echo(request, number))[1]

    with chat_server(fails_first) as (url, _), pytest.raises(InferenceError) as error:
        server_at(url, concurrency=4, cache_dir=tmp_path).answers(DIALOGUES, SAMPLING)
    kept = len(list(tmp_path.rglob("*.json")))
    assert kept >= 3 and re.search(rf"\({kept} of 12 answers are kept", str(error.value))


def test_the_key_reaches_the_server_and_nothing_else(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    with chat_server(echo) as (url, requests), caplog.at_level(logging.DEBUG):
        server = server_at(url, cache_dir=tmp_path, api_key_variable="JUDGE_KEY")
        server.answers(DIALOGUES[:1], SAMPLING)
    assert requests[0]["authorization"] == "Bearer sk-very-secret"
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "secret" not in kept + caplog.text + repr(server)
    with pytest.raises(ParameterError, match="into the environment variable OPENAI_API_KEY, not its URL"):
        server_at("https://me:sk-very-secret@host/v1")


@pytest.mark.parametrize("key", ["sk-very\nsecret", "sk-very-s\u00e9cret"])
def test_a_key_that_no_header_can_hold_is_refused_without_quoting_it(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with chat_server(echo) as (url, requests):
        with pytest.raises(InferenceError, match="the environment variable OPENAI_API_KEY holds a line break") as error:
            server_at(url).answers(DIALOGUES[:1], SAMPLING)
        assert "very" not in str(error.value) and not requests
        monkeypatch.setenv("OPENAI_API_KEY", "sk-fine\r\n")
        server_at(url).answers(DIALOGUES[:1], SAMPLING)
    assert requests[0]["authorization"] == "Bearer sk-fine"
