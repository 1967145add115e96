"""Answers from a chat server: in order, paid for once, and a clear end where there is none."""

import json
import logging
import re
import socket
import time
from dataclasses import replace

import openai
import pytest
from chat_server import chat_server, refusal, reply

from rao_kedro.config.servers import RequestParameters
from rao_kedro.errors import InferenceError, ParameterError
from rao_kedro.identity import combined_hash
from rao_kedro.judges import chat_completions
from rao_kedro.judges.chat_completions import ChatServer
from rao_kedro.judges.client import ChatSampling
from rao_kedro.judges.metering import Forecast, Meter, Prices, Usage
from rao_kedro.shards import JSON, Shards

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
        (lambda request, number: refusal(402, "Pay first"), "cannot be asked: .*Pay first"),
        (
            lambda request, number: refusal(429, "You exceeded your current quota", code="insufficient_quota"),
            "cannot be asked: .*exceeded your current quota",
        ),
        (lambda request, number: refusal(400, "Budget has been exceeded"), "cannot be asked: .*Budget"),
        (lambda request, number: refusal(403, "You are not allowed to sample from this model"), "cannot be asked: "),
        (lambda request, number: (403, "<html>a policy, content filtered</html>", {}), "cannot be asked: "),
        (
            lambda request, number: refusal(404, "The model `judge` does not exist", code="model_not_found"),
            "cannot be asked: .*does not exist",
        ),
        (lambda request, number: (404, '{"detail": "Not Found"}', {}), "cannot be asked: .*set model and base_url"),
        (lambda request, number: (429, "{}", {}), "cannot be asked: .*429"),
        (lambda request, number: (401, "{}", {}), "refuses the key of the environment variable OPENAI_API_KEY"),
        (lambda request, number: (200, "<html>hello</html>", {}), "does not answer as a chat server does: '<html>"),
        (lambda request, number: (200, '{"choices": []}', {}), "does not answer as a chat server does"),
        (lambda request, number: (200, '{"choices": [{"message": {"content": "7"}}]}', {}), "gives no log-probs"),
    ],
    ids=[
        "broken",
        *("unpaid", "quota", "budget", "forbidden", "forbidden by a proxy", "no such model", "wrong address"),
        *("busy", "key", "html", "no choices", "no log-probs"),
    ],
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
        return (401, "{}", {}) if number == 1 else (time.sleep(0.1), echo(request, number))[1]

    with chat_server(fails_first) as (url, _), pytest.raises(InferenceError) as error:
        server_at(url, concurrency=4, cache_dir=tmp_path).answers(DIALOGUES, SAMPLING)
    kept = len(list(tmp_path.rglob("*.shard")))
    assert kept >= 3 and re.search(rf"\({kept} of 12 answers are kept", str(error.value))


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
        with pytest.raises(InferenceError, match="the environment variable OPENAI_API_KEY holds a line break") as error:
            server_at(url).answers(DIALOGUES[:1], SAMPLING)
        assert "very" not in str(error.value) and not requests
        monkeypatch.setenv("OPENAI_API_KEY", "sk-fine\r\n")
        server_at(url).answers(DIALOGUES[:1], SAMPLING)
    assert requests[0]["authorization"] == "Bearer sk-fine"


# What cannot be used: refused, empty, filtered, cut, unreadable.

FILTERED = refusal(400, "The response was filtered", code="content_filter")


def server_that(answers, **options):
    """Return a context: a server that gives some dialogues other answers than the rest, and the requests it got."""
    return chat_server(lambda request, number: answers.get(request["messages"][-1]["content"]) or echo(request, number))


def asked_about(requests):
    return sorted(int(request["messages"][-1]["content"].removeprefix("question ")) for request in requests)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (FILTERED, "refused the request with HTTP status 400: The response was filtered"),
        (refusal(400, "This model's maximum context length is 4096 tokens", param="max_tokens"), "maximum context"),
        (refusal(403, "Your input was flagged by moderation"), "HTTP status 403: Your input was flagged"),
        (refusal(413, "Too large"), "HTTP status 413"),
        ((422, '{"detail": "messages too long"}', {}), "HTTP status 422: messages too long"),
        ((404, '{"detail": "no endpoint for this input"}', {}), "HTTP status 404"),
        ((200, '{"error": {"message": "provider failed"}}', {}), "refused the request: .*provider failed"),
        ((200, '{"choices": []}', {}), "does not answer as a chat server does"),
        (reply(("", {}), refusal="I cannot help"), "the model declined: I cannot help"),
        (reply(("", {})), "the answer is empty"),
        (reply(("", {}), content=None), "the answer is empty"),
        (reply(("So far", {}), finish_reason="length"), "the answer was cut at the token limit"),
        (reply(("So far", {}), finish_reason="content_filter"), "the answer was filtered"),
        (reply(("<think>Well", {}), finish_reason="length"), "the thinking was cut"),
        (reply(("", {}), finish_reason="length", reasoning_content="Well"), "the thinking was cut"),
        (reply(("", {}), finish_reason="length", reasoning="Well"), "the thinking was cut"),
    ],
)
def test_what_cannot_be_used_costs_its_item_only_and_is_asked_for_three_times(answer, reason, tmp_path):
    with server_that({"question 3": answer}) as (url, requests):
        for attempt in (1, 2, 3, 4, 5):
            server = server_at(url, cache_dir=tmp_path, concurrency=1)
            answers = server.answers(DIALOGUES, ChatSampling(4))
            assert re.search(reason, answers[3].failure())
            assert [answer.text for answer in answers if not answer.failure()] == [
                f"question {i}" for i in range(12) if i != 3
            ]
            assert asked_about(requests) == {1: [*range(12)], 2: [3], 3: [3]}.get(attempt, [])
            requests.clear()


def test_an_item_that_is_answered_at_last_is_used_and_not_asked_again(tmp_path):
    answers = {"question 3": reply(("", {}), usage={"prompt_tokens": 7, "completion_tokens": 2})}
    with server_that(answers) as (url, requests):
        server_at(url, cache_dir=tmp_path).answers(DIALOGUES, ChatSampling(4))
        answers.clear()
        server = server_at(url, cache_dir=tmp_path)
        assert server.answers(DIALOGUES, ChatSampling(4))[3].text == "question 3"
        assert len(requests) == 13
        # What the failed attempt took counts as taken before, beside the answers that were kept.
        usage = server.meter.usage
        assert (usage.asked, usage.reused) == (1, 11)
        kept = 11 * 3  # "question 0" has about 3 tokens, read and written
        assert usage.reused_prompt_tokens == kept + 7 and usage.reused_completion_tokens == kept + 2
        last = server_at(url, cache_dir=tmp_path)
        last.answers(DIALOGUES, ChatSampling(4))
        assert len(requests) == 13 and last.meter.usage.reused_completion_tokens == kept + 3 + 2


def test_what_a_reader_cannot_read_is_asked_again_up_to_its_own_limit(tmp_path):
    with chat_server(echo) as (url, requests):
        for _ in range(4):
            server = server_at(url, cache_dir=tmp_path, max_attempts=2)
            server.answers(DIALOGUES, ChatSampling(4), lambda answer: "" if "1" in answer.text else "no 1")
    assert len(requests) == 12 + 9  # of 0 to 11, three have a 1


def test_what_several_methods_ask_alike_is_one_attempt_in_a_run(tmp_path):
    with server_that({"question 3": FILTERED, "question 4": reply(("", {}))}) as (url, requests):
        for run in (1, 2, 3, 4):
            server = server_at(url, cache_dir=tmp_path, max_attempts=3)
            for _ in range(3):
                answers = server.answers(DIALOGUES, ChatSampling(4))
            assert [i for i, answer in enumerate(answers) if answer.failure()] == [3, 4]
            assert server.to_ask(DIALOGUES, ChatSampling(4)) == {}
            assert len(requests) == 12 + 2 * (min(run, 3) - 1)


def test_a_cut_answer_is_one_where_it_need_not_be_complete():
    with chat_server(lambda request, number: reply(("So far", {}), finish_reason="length")) as (url, _):
        (answer,) = server_at(url).answers(DIALOGUES[:1], ChatSampling(4), lambda a: a.failure(complete=False))
    assert (answer.text, answer.failure(complete=False), answer.finish_reason) == ("So far", "", "length")


MANY = [[{"role": "user", "content": f"question {i}"}] for i in range(200)]


@pytest.mark.parametrize("answer", [refusal(400, "bad value"), reply(("", {}))], ids=["refused", "empty"])
def test_a_server_none_of_whose_first_answers_can_be_used_ends_the_run_early(answer, tmp_path):
    with server_that({messages[0]["content"]: answer for messages in MANY}) as (url, requests):
        server = server_at(url, concurrency=4, cache_dir=tmp_path)
        with pytest.raises(InferenceError, match="none of the first 10 answers of judge can be used"):
            server.answers(MANY, ChatSampling(4))
    assert 10 <= len(requests) <= 10 + 4


def test_a_server_that_worked_for_other_requests_ends_the_run_early_too(tmp_path):
    cut = reply(("So far", {}), finish_reason="length")
    with server_that({messages[0]["content"]: cut for messages in MANY[12:]}) as (url, requests):
        server = server_at(url, concurrency=1, cache_dir=tmp_path)
        server.answers(DIALOGUES, ChatSampling(4))
        with pytest.raises(InferenceError, match=r"none of the first 10 .* cut at the token limit"):
            server.answers(MANY[12:], ChatSampling(4))
    assert len(requests) == 12 + 10


def test_refusals_of_a_server_that_refuses_everything_are_no_attempts(tmp_path):
    with server_that({messages[0]["content"]: FILTERED for messages in MANY}) as (url, requests):
        for _ in range(5):
            with pytest.raises(InferenceError, match="none of the first 10"):
                server_at(url, concurrency=1, cache_dir=tmp_path).answers(MANY, ChatSampling(4))
    assert len(requests) == 5 * 10


def test_many_refusals_do_not_end_a_run_once_an_answer_is_kept(tmp_path):
    refused = {f"question {i}": FILTERED for i in range(1, 200)}
    with server_that(refused) as (url, requests):
        server_at(url, cache_dir=tmp_path).answers(MANY[:1], ChatSampling(4))
        answers = server_at(url, cache_dir=tmp_path).answers(MANY, ChatSampling(4))
    assert sum(not answer.failure() for answer in answers) == 1 and len(requests) == 200


def test_an_outage_keeps_what_was_refused_and_answered(tmp_path):
    def outage(request, number):
        if number > 6:
            return 500, "{}", {}
        return FILTERED if number == 3 else echo(request, number)

    with chat_server(outage) as (url, _):
        with pytest.raises(InferenceError, match="5 of 12 answers are kept, run again"):
            server_at(url, concurrency=1, cache_dir=tmp_path, max_retries=0).answers(DIALOGUES, ChatSampling(4))
        server = server_at(url, cache_dir=tmp_path)
        assert len(server.to_ask(DIALOGUES, ChatSampling(4))) == 7
        assert server_at(url, cache_dir=tmp_path, max_attempts=1).to_ask(DIALOGUES[:3], ChatSampling(4)) == {}


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
    with chat_server(lambda request, number: error) as (url, requests), pytest.raises(InferenceError, match=hint):
        server_at(url, concurrency=1).answers(DIALOGUES, SAMPLING)
    assert len(requests) == 1


# How it is asked.


def sent(sampling=None, **options):
    """Return the fields of a request besides the dialogue and the model, and the name its answer is kept by."""
    with chat_server(echo) as (url, requests):
        server = server_at("http://same/v1", options=RequestParameters(**options))
        (name,) = server.to_ask(DIALOGUES[:1], sampling or ChatSampling(2048))
        replace(server, base_url=url).answers(DIALOGUES[:1], sampling or ChatSampling(2048))
    hidden = ("messages", "model", "authorization")
    return {key: value for key, value in requests[0].items() if key not in hidden}, name


def test_the_protocol_is_sent_where_nothing_else_is_set_and_nothing_more():
    assert sent()[0] == {"max_tokens": 2048, "temperature": 0.0}
    assert sent(ChatSampling(1, 1.0, 5))[0] == {
        "max_tokens": 1,
        "temperature": 1.0,
        "logprobs": True,
        "top_logprobs": 5,
    }


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
    asked, name = sent(**options)
    assert asked == fields and name != sent()[1]


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


@pytest.mark.parametrize(
    "answer",
    [
        reply(("<think>Is it?</think>\n\nYes.", {})),
        reply(("Is it?</think>\n\nYes.", {})),
        reply(("Yes.", {}), reasoning_content="Is it?"),
        reply(("Yes.", {}), reasoning="Is it?"),
    ],
    ids=["tags", "opened by the template", "reasoning_content", "reasoning"],
)
def test_what_was_thought_is_not_the_answer(answer):
    with chat_server(lambda request, number: answer) as (url, _):
        (found,) = server_at(url).answers(DIALOGUES[:1], ChatSampling(4))
    assert (found.text, found.thinking, found.failure()) == ("Yes.", "Is it?", "")
    assert found.whole == "<think>Is it?</think>\n\nYes."


# What it costs.


def test_usage_counts_what_is_asked_now_and_what_is_reused_apart(tmp_path):
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 130}  # 20 of thinking in the total only
    with chat_server(lambda request, number: reply(("Yes.", {}), usage=usage)) as (url, _):
        server_at(url, cache_dir=tmp_path).answers(DIALOGUES[:10], ChatSampling(4))
        server = server_at(url, cache_dir=tmp_path)
        server.answers([*DIALOGUES * 7], ChatSampling(4))
    assert server.meter.usage == Usage(2, 200, 60, 10, 1000, 300)


def test_tokens_of_a_refused_request_count_where_the_server_says_them():
    body = json.dumps({"error": {"message": "filtered", "usage": {"prompt_tokens": 50, "completion_tokens": 0}}})
    with chat_server(lambda request, number: (400, body, {})) as (url, _):
        (server := server_at(url)).answers(DIALOGUES[:1], ChatSampling(4))
    assert server.meter.usage[:3] == (1, 50, 0)


def test_a_run_ends_where_it_has_cost_too_much_and_goes_on_with_a_higher_limit(tmp_path):
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    prices = Prices(10.0, 30.0)  # 0.013 a request
    with chat_server(lambda request, number: reply(("Yes.", {}), usage=usage)) as (url, requests):
        server = server_at(url, cache_dir=tmp_path, concurrency=1, meter=Meter(prices, 0.05))
        with pytest.raises(InferenceError, match=r"4 requests have cost 0\.052, more than max_cost 0\.05.*4 of 12"):
            server.answers(DIALOGUES, ChatSampling(4))
        server_at(url, cache_dir=tmp_path, meter=Meter(prices, 0.2)).answers(DIALOGUES, ChatSampling(4))
    assert len(requests) == 12


def test_a_forecast_says_tokens_and_cost_with_an_upper_bound():
    with_limit = server_at("http://host/v1").to_ask(DIALOGUES, ChatSampling(400))
    forecast = Forecast.of(with_limit.values())
    assert forecast == Forecast(12, 12 * 3, 12 * 200, 12 * 400)  # 10 or 11 characters are 3 tokens
    line = forecast.described("judge", Prices(10.0, 30.0))
    assert line.startswith(
        "judge: 12 requests, about 36 prompt and 2400 completion tokens (estimates), cost about 0.07"
    )
    assert line.endswith("at most 0.1444 at the token limit")
    unlimited = Forecast.of([{"messages": DIALOGUES[0], "max_tokens": None}])
    assert unlimited.described("judge", Prices(10.0, 30.0)).endswith("without an upper bound, since max_tokens is null")
    assert Forecast.of([]).described("judge", Prices(1.0, 1.0)) == "judge: all answers are kept, nothing is asked"
