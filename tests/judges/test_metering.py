"""Tokens and costs of a chat server, counted, limited and forecast."""

import json

import pytest
from chat_questions import DIALOGUES, server_at
from chat_server import chat_server, reply

from rao_kedro.errors import GenerationError
from rao_kedro.judges.client import ChatSampling
from rao_kedro.judges.metering import Forecast, Meter, Prices, Usage


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
        with pytest.raises(GenerationError, match=r"4 requests have cost 0\.052, more than max_cost 0\.05.*4 of 12"):
            server.answers(DIALOGUES, ChatSampling(4))
        server_at(url, cache_dir=tmp_path, meter=Meter(prices, 0.2)).answers(DIALOGUES, ChatSampling(4))
    assert len(requests) == 12


def test_a_forecast_says_tokens_and_cost_with_an_upper_bound():
    with_limit = server_at("http://host/v1").to_ask(DIALOGUES, ChatSampling(400))
    forecast = Forecast.of(with_limit.values())
    assert forecast == Forecast(12, 12 * 3, 12 * 200, 12 * 400)  # 10 or 11 characters are 3 tokens
    line = forecast.describe("judge", Prices(10.0, 30.0))
    assert line.startswith(
        "judge: 12 requests, about 36 prompt and 2400 completion tokens (estimates), cost about 0.07"
    )
    assert line.endswith("at most 0.1444 at the token limit")
    unlimited = Forecast.of([{"messages": DIALOGUES[0], "max_tokens": None}])
    assert unlimited.describe("judge", Prices(10.0, 30.0)).endswith("without an upper bound, since max_tokens is null")
    assert Forecast.of([]).describe("judge", Prices(1.0, 1.0)) == "judge: all answers are cached, no request is sent"
