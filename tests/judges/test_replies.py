"""Replies that cannot be used cost their item only, and end a run where none can be used."""

import re

import pytest
from chat_questions import DIALOGUES, echo, server_at
from chat_server import chat_server, refusal, reply

from rao_kedro.errors import GenerationError
from rao_kedro.judges.client import ChatSampling

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
        ((200, '{"choices": []}', {}), "did not send a chat completion"),
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
        with pytest.raises(GenerationError, match="none of the first 10 answers of judge can be used"):
            server.answers(MANY, ChatSampling(4))
    assert 10 <= len(requests) <= 10 + 4


def test_a_server_that_worked_for_other_requests_ends_the_run_early_too(tmp_path):
    cut = reply(("So far", {}), finish_reason="length")
    with server_that({messages[0]["content"]: cut for messages in MANY[12:]}) as (url, requests):
        server = server_at(url, concurrency=1, cache_dir=tmp_path)
        server.answers(DIALOGUES, ChatSampling(4))
        with pytest.raises(GenerationError, match=r"none of the first 10 .* cut at the token limit"):
            server.answers(MANY[12:], ChatSampling(4))
    assert len(requests) == 12 + 10


def test_refusals_of_a_server_that_refuses_everything_are_no_attempts(tmp_path):
    with server_that({messages[0]["content"]: FILTERED for messages in MANY}) as (url, requests):
        for _ in range(5):
            with pytest.raises(GenerationError, match="none of the first 10"):
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
        with pytest.raises(GenerationError, match="5 of 12 answers are kept, run again"):
            server_at(url, concurrency=1, cache_dir=tmp_path, max_retries=0).answers(DIALOGUES, ChatSampling(4))
        server = server_at(url, cache_dir=tmp_path)
        assert len(server.to_ask(DIALOGUES, ChatSampling(4))) == 7
        assert server_at(url, cache_dir=tmp_path, max_attempts=1).to_ask(DIALOGUES[:3], ChatSampling(4)) == {}


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
