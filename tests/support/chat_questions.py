"""Questions to a chat server that answers as it is told to, and a client of it."""

import time
from dataclasses import replace

from chat_server import chat_server, reply

from rao_kedro.config.servers import RequestParameters
from rao_kedro.judges.chat_completions import ChatServer
from rao_kedro.judges.client import ChatSampling

SAMPLING = ChatSampling(max_tokens=4, top_logprobs=2)
DIALOGUES = [[{"role": "user", "content": f"question {i}"}] for i in range(12)]


def echo(request, number):
    """Answer with what was asked."""
    time.sleep(0.002 * (number % 3))
    return reply((request["messages"][-1]["content"], {"a": -0.1, "b": -2.5}))


def server_at(base_url, **options):
    """Return a client of a server."""
    return ChatServer(base_url, "judge", **({"max_retries": 2} | options))


def sent_fields(sampling=None, **options):
    """Return the fields of a request besides the dialogue and the model, and the name its answer is kept by."""
    with chat_server(echo) as (url, requests):
        server = server_at("http://same/v1", options=RequestParameters(**options))
        (name,) = server.to_ask(DIALOGUES[:1], sampling or ChatSampling(2048))
        replace(server, base_url=url).answers(DIALOGUES[:1], sampling or ChatSampling(2048))
    hidden = ("messages", "model", "authorization")
    return {key: value for key, value in requests[0].items() if key not in hidden}, name
