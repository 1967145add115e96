"""Requests to a chat server: what is sent, what is asked again, and what ends a run."""

import logging
import socket
import time

import pytest
from chat_questions import DIALOGUES, SAMPLING, echo, sent_fields, server_at
from chat_server import chat_server, refusal

from rao_kedro.errors import GenerationError, ParameterError
from rao_kedro.judges.client import ChatSampling


def test_a_server_that_is_busy_at_first_is_asked_again():
    def busy(request, number):
        return (429, "{}", {"Retry-After": "0.01"}) if number <= 2 else echo(request, number)

    with chat_server(busy) as (url, requests):
        assert server_at(url).answers(DIALOGUES[:1], SAMPLING)[0].text == "question 0"
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda request, number: (500, "{}", {}), "cannot answer: .*500"),
        (lambda request, number: refusal(402, "Pay first"), "cannot answer: .*Pay first"),
        (
            lambda request, number: refusal(429, "You exceeded your current quota", code="insufficient_quota"),
            "cannot answer: .*exceeded your current quota",
        ),
        (lambda request, number: refusal(400, "Budget has been exceeded"), "cannot answer: .*Budget"),
        (lambda request, number: refusal(403, "You are not allowed to sample from this model"), "cannot answer: "),
        (lambda request, number: (403, "<html>a policy, content filtered</html>", {}), "cannot answer: "),
        (
            lambda request, number: refusal(404, "The model `judge` does not exist", code="model_not_found"),
            "cannot answer: .*does not exist",
        ),
        (lambda request, number: (404, '{"detail": "Not Found"}', {}), "cannot answer: .*correct model and base_url"),
        (lambda request, number: (429, "{}", {}), "cannot answer: .*429"),
        (lambda request, number: (401, "{}", {}), "refuses the key of the environment variable OPENAI_API_KEY"),
        (lambda request, number: (200, "<html>hello</html>", {}), "did not send a chat completion: '<html>"),
        (lambda request, number: (200, '{"choices": []}', {}), "did not send a chat completion"),
        (lambda request, number: (200, '{"choices": [{"message": {"content": "7"}}]}', {}), "returns no log-probs"),
    ],
    ids=[
        "broken",
        *("unpaid", "quota", "budget", "forbidden", "forbidden by a proxy", "no such model", "wrong address"),
        *("busy", "key", "html", "no choices", "no log-probs"),
    ],
)
def test_a_server_that_does_not_answer_ends_with_what_it_said(answer, message):
    with chat_server(answer) as (url, _), pytest.raises(GenerationError, match=rf"127\.0\.0\.1.* {message}"):
        server_at(url).answers(DIALOGUES, SAMPLING)


def test_a_slow_server_and_one_that_is_away_end_too():
    with (
        chat_server(lambda request, number: (time.sleep(1), echo(request, number))[1]) as (url, _),
        pytest.raises(GenerationError, match=r"did not answer within 0\.05 s: raise timeout"),
    ):
        server_at(url, timeout=0.05, max_retries=0).answers(DIALOGUES[:1], SAMPLING)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        with pytest.raises(GenerationError, match="cannot answer: Connection error"):
            server_at(url).answers(DIALOGUES[:1], SAMPLING)


def test_the_key_reaches_the_server_and_nothing_else(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    with chat_server(echo) as (url, requests), caplog.at_level(logging.DEBUG):
        server = server_at(url, cache_dir=tmp_path, api_key_variable="JUDGE_KEY")
        server.answers(DIALOGUES[:1], SAMPLING)
    assert requests[0]["authorization"] == "Bearer sk-very-secret"
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.shard"))
    assert "secret" not in kept + caplog.text + repr(server)
    for url in ("https://me:sk-very-secret@host/v1", "https://host/v1?api_key=sk-very-secret"):
        with pytest.raises(ParameterError, match="into the environment variable that api_key_variable") as error:
            server_at(url)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize("key", ["sk-very\nsecret", "sk-very-s\u00e9cret"])
def test_a_key_that_no_header_can_hold_is_refused_without_quoting_it(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with chat_server(echo) as (url, requests):
        with pytest.raises(
            GenerationError, match="the environment variable OPENAI_API_KEY contains a line break"
        ) as error:
            server_at(url).answers(DIALOGUES[:1], SAMPLING)
        assert "very" not in str(error.value) and not requests
        monkeypatch.setenv("OPENAI_API_KEY", "sk-fine\r\n")
        server_at(url).answers(DIALOGUES[:1], SAMPLING)
    assert requests[0]["authorization"] == "Bearer sk-fine"


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (
            refusal(
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
                param="max_tokens",
                code="unsupported_parameter",
            ),
            "set its parameter max_tokens_field: max_completion_tokens",
        ),
        (
            refusal(
                400,
                "Unsupported value: 'temperature' does not support 0.0 with this model.",
                param="temperature",
                code="unsupported_value",
            ),
            "set its parameter temperature: null",
        ),
        (refusal(403, "You are not allowed to request logprobs from this model."), "a judge's verdict: text"),
        (refusal(400, "Unrecognized request argument supplied: top_k"), "change the parameters of this model"),
    ],
)
def test_a_parameter_that_the_server_refuses_ends_the_run_at_once_and_says_what_to_set(error, hint):
    with chat_server(lambda request, number: error) as (url, requests), pytest.raises(GenerationError, match=hint):
        server_at(url, concurrency=1).answers(DIALOGUES, SAMPLING)
    assert len(requests) == 1


def test_the_protocol_is_sent_where_nothing_else_is_set_and_nothing_more():
    assert sent_fields()[0] == {"max_tokens": 2048, "temperature": 0.0}
    assert sent_fields(ChatSampling(1, 1.0, 5))[0] == {
        "max_tokens": 1,
        "temperature": 1.0,
        "logprobs": True,
        "top_logprobs": 5,
    }
