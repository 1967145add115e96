"""Judges that vLLM serves here: started with their options, once, and ended with their worker."""

import json
import math
import os
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from rao_kedro.errors import GenerationError, ParameterError
from rao_kedro.generation import engine_options
from rao_kedro.identity import content_hash
from rao_kedro.judges import vllm_server
from rao_kedro.rewards import PromptGroup, make_reward

GROUP = PromptGroup("g", [{"role": "user", "content": "Say hi."}], ["hi", "no"])
TOP = {"7": math.log(0.5), " 8": math.log(0.25), "9": math.log(0.05), "x": math.log(0.1), "0": math.log(0.1)}
EXPECTATION = (7 * 0.5 + 8 * 0.25 + 9 * 0.05) / (0.5 + 0.25 + 0.05)  # x is no score, 0 is below the scale


@pytest.fixture
def fake_vllm(tmp_path, monkeypatch):
    """Return a function that sets what `vllm.entrypoints.openai.api_server` does here."""

    def does(source):
        package = tmp_path / "vllm" / "entrypoints" / "openai"
        package.mkdir(parents=True)
        (tmp_path / "vllm" / "__init__.py").touch()
        (package / "api_server.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    return does


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise SystemExit('no memory')", "could not serve here, it ended:\nno memory"),
        ("import time; time.sleep(60)", "could not serve here, not ready after 0.5 s"),
    ],
)
def test_a_judge_that_vllm_does_not_serve_ends_with_its_last_lines(source, message, fake_vllm):
    fake_vllm(source)
    patience = 0.5 if "sleep" in source else 60
    with pytest.raises(GenerationError, match=message), vllm_server.serve("here", "judge", 64, 5, patience):
        pass


def test_a_judge_is_served_with_its_engines_options(fake_vllm, tiny_checkpoint, monkeypatch):
    fake_vllm("import sys; raise SystemExit(' '.join(sys.argv[1:]))")
    monkeypatch.setattr(engine_options, "visible_gpus", lambda: ["0", "1", "2", "3"])
    engine = {"tensor_parallel_size": 2, "data_parallel_size": 2, "gpu_memory_utilization": 0.5, "dtype": "float16"}
    judge = make_reward("generative", model=str(tiny_checkpoint), max_model_len=512, engine=engine)
    with pytest.raises(GenerationError) as raised:
        judge.annotate([GROUP])
    said = str(raised.value)
    assert "--tensor-parallel-size 2" in said and "--data-parallel-size 2" in said and "--max-model-len 512" in said
    assert "--gpu-memory-utilization 0.5" in said and "--dtype float16" in said and "--enforce-eager" in said
    more = make_reward("generative", model=str(tiny_checkpoint), engine=engine | {"tensor_parallel_size": 8})
    with pytest.raises(ParameterError, match="needs 16 GPUs, and this process sees 4"):
        more.annotate([GROUP])


HEALTHY = (
    "import sys; from http.server import HTTPServer, SimpleHTTPRequestHandler as Handler\n"
    "Handler.do_GET = lambda self: (self.send_response(200), self.end_headers())\n"
    "HTTPServer(('127.0.0.1', int(sys.argv[sys.argv.index('--port') + 1])), Handler).serve_forever()"
)


# Short sleeps: a signal just before one long sleep is handled only after it.
@pytest.mark.parametrize(("then", "status"), [("for _ in range(600): time.sleep(0.1)", 128 + 15), ("sys.exit(3)", 3)])
def test_a_judge_is_served_once_and_does_not_outlive_its_worker(fake_vllm, then, status):
    fake_vllm(HEALTHY)
    worker = (
        "import sys, time; from rao_kedro.judges.vllm_server import serve_once\n"
        "for _ in range(2): print(serve_once('here', 'judge', 64, 5, 60), flush=True)\n"
        f"sys.stdin.readline()\n{then}"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", worker], text=True, **pipes) as process:
        url, again = (process.stdout.readline().strip() for _ in range(2))
        assert url == again and urllib.request.urlopen(url).status == 200
        process.stdin.write("\n")
        process.stdin.flush()
        if status == 128 + 15:
            process.terminate()
        assert process.wait(30) == status
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url)


def test_a_served_judge_ends_when_told_to_and_another_one_can_start(fake_vllm):
    fake_vllm(HEALTHY)
    url = vllm_server.serve_once("here", "judge", 64, 5, 60)
    vllm_server.stop_servers()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url)
    assert urllib.request.urlopen(vllm_server.serve_once("here", "judge", 64, 5, 60)).status == 200
    vllm_server.stop_servers()


def test_no_judge_is_served_where_all_answers_are_kept(tiny_checkpoint, tmp_path, monkeypatch):
    from chat_server import chat_server, reply

    judge = make_reward("generative", model=tiny_checkpoint, cache_dir=tmp_path)
    with chat_server(lambda request, number: reply(("7", TOP))) as (url, _):
        monkeypatch.setattr(vllm_server, "serve_once", lambda *limits, **patience: url)
        scores = judge.score([GROUP])
    monkeypatch.delattr(vllm_server, "serve_once")
    assert judge.score([GROUP]) == scores == [pytest.approx([EXPECTATION] * 2)]


@pytest.mark.slow
def test_a_model_that_vllm_serves_judges_as_its_raw_log_probs_say(smollm2, tmp_path, monkeypatch):
    pytest.importorskip("vllm")
    template = tmp_path / "short.jinja"  # one that so small a model answers with a digit
    template.write_text(
        "Rate the text from {{ lowest }} to {{ highest }}. Answer as in `Score: 7`.\nText: {{ response }}"
    )
    judge = make_reward("generative", model=str(smollm2), max_model_len=1024, template=template, max_tokens=1)
    with vllm_server.serve(smollm2, name := content_hash(smollm2), 1024, 20, patience=600) as url:
        monkeypatch.setattr(vllm_server, "serve_once", lambda *limits, **patience: url)
        expected = [expectation_by_hand(url, name, response) for response in GROUP.responses]
        scores = judge.annotate([GROUP])[0]
    assert scores.failures == ["", ""] and all(1 <= reward <= 9 for reward in scores.rewards)
    assert scores.rewards == pytest.approx(expected, abs=1e-2)


def expectation_by_hand(url, model, response):
    prompt = f"Rate the text from 1 to 9. Answer as in `Score: 7`.\nText: {response}"
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 1, "temperature": 0}
    body |= {"logprobs": True, "top_logprobs": 20}
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as found:
        top = json.load(found)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    weights = [(int(t["token"]), math.exp(t["logprob"])) for t in top if t["token"].strip() in list("123456789")]
    return sum(score * weight for score, weight in weights) / sum(weight for _, weight in weights)
