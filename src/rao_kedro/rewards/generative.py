"""A generative reward model: a judge writes a score, whose expectation over the score tokens is the reward.

How the score is read stands in `judges.scores`.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rao_kedro.config.rewards import generative_judge
from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.errors import GenerationError, ParameterError
from rao_kedro.identity import combined_hash
from rao_kedro.judges.client import ChatSampling
from rao_kedro.judges.judge import Judge
from rao_kedro.judges.replies import Answer
from rao_kedro.judges.scores import read_score_on_scale
from rao_kedro.models.thinking import split_thinking
from rao_kedro.rewards.base import Reward, Scores

if TYPE_CHECKING:
    from jinja2 import Template

PROMPTS = Path(__file__).parent / "judge_prompts"
FEW = 20  # replies below which a share of failures means nothing


class GenerativeReward(Reward):
    """Scores each response, alone with its prompt, with a judge behind an OpenAI-compatible server."""

    def __init__(
        self,
        *,
        model: str | Path,
        template: str | Path | None = None,
        lowest: int = 1,
        highest: int = 9,
        reasoning: bool = False,
        read: Literal["expectation", "text"] = "expectation",
        top_logprobs: int = 20,
        max_failure_share: float = 0.2,
        cache_dir: str | Path | None = None,
        **judge: Any,
    ) -> None:
        """Set the judge, its prompt and its scale.

        Args:
            model: A checkpoint (directory or hub name), which vLLM serves on this machine from the first request until
                this process ends. With `base_url`: the model's name on that server.
            template: A Jinja file of the prompt with the variables `messages`, `response`, `lowest`, `highest` and
                `marker`; None takes one of `rewards/judge_prompts`.
            lowest: Lowest score. Scores are single digits, so that each is one token.
            highest: Highest score.
            reasoning: Whether the judge argues before it writes the line `Score: N`.
            read: The expectation over the probabilities of the score tokens, or the score in the text.
            top_logprobs: Most likely tokens that the expectation is computed from.
            max_failure_share: Share of replies without a score above which the run ends.
            cache_dir: Directory of the cached replies, so that none is paid for twice.
            **judge: The other fields of `rao_kedro.config.servers.JudgeServerParameters`: `base_url`, how the judge
                is asked, prices. `max_tokens: protocol` is 8, or 512 with reasoning; `temperature: protocol` is 0.

        Raises:
            ParameterError: The scale is not of single digits, the template does not exist, or a field of the judge is
                unknown or out of range.
        """
        if not 0 <= lowest < highest <= 9:
            raise ParameterError(
                f"reward 'generative': the scale goes from {lowest} to {highest}, but scores must be single digits: a "
                "judge's tokenizer may split longer ones into several tokens"
            )
        if read not in ("expectation", "text"):
            raise ParameterError(f"reward 'generative': read is {read!r}; it must be expectation or text")
        self.template = Path(template or PROMPTS / ("score_with_reasoning.jinja" if reasoning else "score.jinja"))
        if not self.template.is_file():
            raise ParameterError(f"reward 'generative': there is no template {self.template}")
        self.lowest, self.highest, self.reasoning, self.read = lowest, highest, reasoning, read
        self.max_failure_share = max_failure_share
        self.sampling = ChatSampling(512 if reasoning else 8, 0.0, top_logprobs if read == "expectation" else 0)
        self.judge = Judge(generative_judge({"model": str(model), **judge}), cache_dir)

    @property
    def identity(self) -> str:
        """Return the judge's name and server or its content hash, and a hash of the template, scale and sampling."""
        asked = json.dumps(self.sampling.fields(self.judge.how), sort_keys=True)
        how = (self.template.read_text(), self.lowest, self.highest, self.reasoning, self.read, asked)
        return f"{self.judge.identity} judging {combined_hash(*map(str, how))}"

    def forecast(self, groups: Sequence[PromptGroup]) -> None:
        """Log the expected cost of the requests.

        Raises:
            GenerationError: The expected cost exceeds the limit.
        """
        requests = self.judge.to_ask(self._dialogues(groups), self.sampling, self._failure)
        self.judge.forecast(requests.values())

    def annotate(self, groups: Sequence[PromptGroup]) -> list[Scores]:
        """Return the scores of each group; under accelerate, the main process sends the requests.

        Raises:
            GenerationError: The server does not answer, or too many replies have no score.
        """
        from accelerate.utils import broadcast_object_list

        from rao_kedro.distributed import process_state

        found = [self._judge(groups) if process_state().is_main_process else None]
        return broadcast_object_list(found)[0]

    def _judge(self, groups: Sequence[PromptGroup]) -> list[Scores]:
        answers = self.judge.answers(self._dialogues(groups), self.sampling, self._failure)
        scored = [self._score(answer) for answer in answers]
        failures = [failure for _, failure in scored if failure]
        if len(scored) >= FEW and len(failures) > self.max_failure_share * len(scored):
            raise GenerationError(
                f"{len(failures)} of {len(scored)} replies of {self.judge.model} have no score from {self.lowest} to "
                f"{self.highest}, for example: {failures[0]}. Use a better judge, or change the template"
            )
        rest = iter(scored)
        return [_scores([next(rest) for _ in group.responses]) for group in groups]

    def _dialogues(self, groups: Sequence[PromptGroup]) -> list[list[Mapping[str, str]]]:
        prompts = [self._prompt(group.before(i), text) for group in groups for i, text in enumerate(group.responses)]
        return [[{"role": "user", "content": prompt}] for prompt in prompts]

    @cached_property
    def _compiled(self) -> "Template":
        from jinja2 import StrictUndefined, Template

        return Template(self.template.read_text(), undefined=StrictUndefined)

    def _prompt(self, messages: Sequence[Mapping[str, str]], response: str) -> str:
        from jinja2 import TemplateError

        response = split_thinking(response).answer or ""  # the judges of benchmarks do not see it either
        # A response cannot write the end of its block: it does not know the marker.
        marker = combined_hash(response, *(message["content"] for message in messages))[:8]
        scale = {"lowest": self.lowest, "highest": self.highest}
        try:
            return self._compiled.render(messages=messages, response=response, marker=marker, **scale)
        except TemplateError as error:
            raise ParameterError(
                f"reward 'generative': {self.template}: {error}; a template has the variables messages, response, "
                "lowest, highest and marker"
            ) from error

    def _failure(self, answer: Answer) -> str:
        return self._score(answer)[1]

    def _score(self, answer: Answer) -> tuple[float, str]:
        return read_score_on_scale(answer, self.lowest, self.highest, self.reasoning, self.read)


def _scores(scored: Sequence[tuple[float, str]]) -> Scores:
    return Scores([score for score, _ in scored], [False] * len(scored), [failure for _, failure in scored])
