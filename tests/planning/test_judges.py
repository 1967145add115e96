"""Judges and rewards: an address is one of a server, a key is there, a template has a syntax."""

import socket

import pytest

from rao_kedro.config.rewards import RewardParameters
from rao_kedro.planning import judges


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:8000/v1", None),
        ("http://localhost:8000/v1", None),
        ("http://gpu7:8000/v1", None),
        ("https://judge.mine.internal/v1", None),
        ("http://192.168.3.4:8000/v1", None),
        ("http://judge.example.com:8000/v1", None),
        ("https://api.openai.com/v1", "api.openai.com wants a key, and the environment variable MY_KEY is not set"),
        ("judge.example.com/v1", "is no address of a server"),
        ("ftp://judge.example.com/v1", "is no address of a server"),
        ("http://:8000/v1", "is no address of a server"),
        ("http://judge:80000/v1", "it is no address"),
        ("http://judge:0/v1", "is no address of a server"),
        ("https://me:secret@judge.example.com/v1", "it holds credentials"),
    ],
)
def test_an_address_is_one_of_a_server_without_credentials_and_its_key_is_there(url, said, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    asked = {"model": "m", "base_url": url, "api_key_variable": "MY_KEY"}
    found = list(judges.asked_problems("evaluation.benchmarks.judge", asked))
    assert (found == []) if said is None else (len(found) == 1 and said in found[0] and "secret" not in found[0])
    monkeypatch.setenv("MY_KEY", "k")
    if said and "wants a key" in said:
        assert list(judges.asked_problems("evaluation.benchmarks.judge", asked)) == []


def test_a_judge_that_is_served_here_needs_vllm_and_its_model(monkeypatch):
    monkeypatch.setattr(judges, "find_spec", lambda name: None)
    found = list(judges.asked_problems("x", {"model": "nowhere/at/all"}))
    assert "vLLM would serve nowhere/at/all here, and is not installed" in found[0]
    assert "parameter x.model: 'nowhere/at/all' is neither a directory" in found[1]


def test_a_server_that_is_away_is_a_remark_and_no_refusal():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = {"model": "m", "base_url": f"http://127.0.0.1:{port}/v1"}
    assert list(judges.asked_problems("x", asked)) == []
    (remark,) = judges.unreachable("x", asked["base_url"])
    assert f"127.0.0.1:{port} takes no connection now" in remark
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        there.listen()
        assert list(judges.unreachable("x", f"http://127.0.0.1:{there.getsockname()[1]}/v1")) == []


def test_rewards_are_checked_with_their_parts_prompts_and_models(tmp_path):
    (tmp_path / "bad.jinja").write_text("{{ response")
    here = {"model": "m", "base_url": "http://localhost:1/v1"}

    def found(name, **parameters):
        return list(judges.reward_problems("reward", RewardParameters(name=name, parameters=parameters)))

    assert found("bradley_terry") == [] and found("rules") == [] and found("generative", **here) == []
    assert "unknown reward 'magic'" in found("magic")[0]
    assert "there is no template" in found("generative", template="nowhere", **here)[0]
    parts = [{"name": "rules"}, {"name": "generative", "parameters": here | {"template": str(tmp_path / "bad.jinja")}}]
    (sentence,) = found("combined", parts=parts)
    assert sentence.startswith("parameter reward.parameters.parts.1.parameters.template: ")
    (sentence,) = found("bradley_terry", model_dir="of/no/one")
    assert sentence.startswith("parameter reward.parameters.model_dir: ")
