"""Parameters of the benchmarks: which, where their files are, and who judges.

A location is a local path, or an address that fsspec opens: `https://...`, `hf://datasets/...`; gzipped or not.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from rao_kedro.config.base import DIFFERENT_NAMES, FileName, Parameters
from rao_kedro.config.generation import GenerationSpec, ServedEngineParameters
from rao_kedro.config.servers import AskedParameters, checked_url
from rao_kedro.errors import InferenceError
from rao_kedro.workers import Spec

JUDGED = ("alpaca_eval", "mt_bench")
HARNESS = "lm_eval/"  # before the names of tasks of lm-evaluation-harness itself, in tables
FORMATS = ("json", "csv", "parquet", "text", "arrow")  # of files, which `datasets` reads without a dataset's name
DOWNSTREAM = ("gsm8k", "arc_easy", "arc_challenge", "mathqa", "socialiqa", "mmlu")


class ServerParameters(AskedParameters):
    """A model behind an OpenAI-compatible server; how it is asked is in `AskedParameters`.

    Attributes:
        base_url: Of the server, up to `/v1`.
    """

    base_url: str

    _checked_url = field_validator("base_url")(checked_url)


class JudgeServerParameters(AskedParameters):
    """A model that judges, and what it costs; see `rao_kedro.judges.judge.Judge`.

    Attributes:
        model: A checkpoint that vLLM serves here, or with `base_url` the name that the server there knows.
        base_url: Of an OpenAI-compatible server, up to `/v1`.
        max_model_len: Tokens of a prompt and its answer, where vLLM serves the model here.
        engine: Options of vLLM, where it serves the model here.
        prompt_price: Per million tokens that the judge reads.
        completion_price: Per million tokens that it writes, thinking included.
        max_cost: What a run may cost: it does not begin where more is forecast, and ends once it cost more.
    """

    base_url: str | None = None
    engine: ServedEngineParameters = ServedEngineParameters()
    max_model_len: int = Field(8192, ge=2)
    prompt_price: float = Field(0.0, ge=0)
    completion_price: float = Field(0.0, ge=0)
    max_cost: float | None = Field(None, ge=0)

    _checked_url = field_validator("base_url")(lambda url: url and checked_url(url))

    @model_validator(mode="after")
    def _a_limit_has_prices(self) -> Self:
        if self.max_cost is not None and not (self.prompt_price or self.completion_price):
            raise ValueError("max_cost needs prompt_price and completion_price, per million tokens")
        return self

    @model_validator(mode="after")
    def _engine_is_here(self) -> Self:
        if self.base_url is not None and self.engine.changed():
            raise ValueError("engine is for a judge that vLLM serves here; a server at base_url has its own options")
        return self


class JudgeParameters(JudgeServerParameters):
    """The judge of the benchmarks.

    Attributes:
        verdict: `logprobs` reads AlpacaEval's preference from the log-probs of the judge's first token, as AlpacaEval
            does. `text` reads the name of the better output, a preference of 1 or 2, for judges that think or give no
            log-probs: they may write 2048 tokens, at temperature 0.
    """

    verdict: Literal["logprobs", "text"] = "logprobs"


# Commits, so that these files stay what they are.
ALPACA_EVAL = "hf://datasets/tatsu-lab/alpaca_eval@2edc6fad8be6b14ea7230aabfd08188da6b8b814"
FASTCHAT = (
    "https://raw.githubusercontent.com/lm-sys/FastChat/ae8abd20cbe1821100595d56d9ac4b137b31b53c/fastchat/llm_judge/data"
)


class AlpacaEvalParameters(Parameters):
    """AlpacaEval 2.

    Attributes:
        baseline: Location of the baseline's outputs, a JSON list of `instruction, output, generator`; its instructions
            are those that models answer.
        instruction_difficulty: Location of a CSV with columns `index, instruction_difficulty`; without it and `gamed`
            there is no length-controlled win rate.
        gamed: Location of `df_gamed.csv`.
        temperature: Of the models' answers.
        max_tokens: Of an answer.
        both_orders: Judge each pair in the other order as well, for the position-bias check; twice the cost.
    """

    baseline: str = f"{ALPACA_EVAL}/alpaca_eval_gpt4_baseline.json"
    instruction_difficulty: str | None = f"{ALPACA_EVAL}/instruction_difficulty.csv"
    gamed: str | None = f"{ALPACA_EVAL}/df_gamed.csv"
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(2048, ge=1)
    both_orders: bool = False


class MTBenchParameters(Parameters):
    """MT-Bench.

    Attributes:
        questions: Location of FastChat's `question.jsonl`.
        reference_answers: Location of `reference_answer/gpt-4.jsonl`.
        judge_prompts: Location of `judge_prompts.jsonl`.
        max_tokens: Of an answer.
        compare_with_sft: The judge also names the better of a model's and SFT's answers, asked in both orders: the
            pairwise mode, three times the requests.
    """

    questions: str = f"{FASTCHAT}/mt_bench/question.jsonl"
    reference_answers: str = f"{FASTCHAT}/mt_bench/reference_answer/gpt-4.jsonl"
    judge_prompts: str = f"{FASTCHAT}/judge_prompts.jsonl"
    max_tokens: int = Field(1024, ge=1)
    compare_with_sft: bool = False


class TaskSource(Parameters):
    """Where a downstream task's rows come from, where it is not the usual dataset of the hub.

    Attributes:
        path: A local file: JSON lines, JSON or parquet, gzipped or not, in the schema of the hub or of the authors. For
            SocialIQA's official release the labels are `<name>-labels.lst` beside it; for MMLU it is the authors'
            archive (a zip, or the directory that it unpacks to).
        hub_id: A dataset of the hub.
        subset: A configuration of it; of MMLU, the subject is.
        split: A split of it; the usual one if not set.
        revision: A revision of it; that of the usual dataset is pinned, except MathQA's, which is the newest.
    """

    path: str | None = None
    hub_id: str | None = None
    subset: str | None = None
    split: str | None = None
    revision: str | None = None


class ChainOfThoughtParameters(Parameters):
    """The zero-shot chain-of-thought tasks of `DOWNSTREAM`.

    Attributes:
        max_tokens: Of a response; one that is cut often has no answer yet, and counts as wrong.
    """

    max_tokens: int = Field(512, ge=1)


class HarnessDataset(Parameters):
    """Where the rows of a task of lm-evaluation-harness are, in place of what the task names; see `load_dataset`.

    Attributes:
        dataset_path: A dataset of the hub, the directory of a copy of it, or a format: `json`, `csv`, `parquet`.
        dataset_name: A configuration of it. With a format there is none; else what the task names if not set.
        dataset_kwargs: What else `load_dataset` takes, for example `{data_files: {train: a.jsonl, test: b.jsonl}}`.
    """

    dataset_path: str
    dataset_name: str | None = None
    dataset_kwargs: dict[str, Any] = {}

    @property
    def overrides(self) -> dict[str, Any]:
        """Return what replaces keys of a task's file."""
        keeps_name = self.dataset_name is None and self.dataset_path not in FORMATS
        return self.model_dump(exclude={"dataset_name"} if keeps_name else None)


class HarnessParameters(Parameters):
    """Tasks of lm-evaluation-harness itself, run as its own command runs them.

    Attributes:
        tasks: Names of its tasks, groups and tags, with blanks between; none takes none. `lm_eval ls tasks` lists them.
        num_fewshot: Examples before each question; what a task says if not set. Tasks that say 0 stay without.
        apply_chat_template: Whether prompts are messages in the model's chat template, or plain text.
        fewshot_as_multiturn: Whether the examples are turns of the chat, or all in one message.
        datasets: Where rows are, by the name of a task or a group, if not where the task says.
    """

    tasks: str = ""
    num_fewshot: int | None = Field(None, ge=0)
    apply_chat_template: bool = True
    fewshot_as_multiturn: bool = True
    datasets: dict[str, HarnessDataset] = {}

    @model_validator(mode="after")
    def _datasets_are_of_tasks(self) -> Self:
        if unused := [name for name in self.datasets if name not in self.tasks.split()]:
            raise ValueError(
                f"harness.datasets: {', '.join(unused)} is not among harness.tasks ({self.tasks or 'none'})"
            )
        return self


class AnsweredBenchmarks(Parameters):
    """What models answer: all that decides what they are asked, and how.

    Attributes:
        names: Of `JUDGED` and `DOWNSTREAM`, with blanks between; none takes none.
        limit: Items of each benchmark (of each subject of MMLU, of each task of a group); all if not set.
        max_model_len: Tokens of the longest prompt and its answer together.
        alpaca_eval: Files and sampling.
        mt_bench: Files.
        chain_of_thought: How long a response to a downstream task may be.
        harness: Tasks of lm-evaluation-harness itself.
        sources: Where rows of downstream tasks are, by name; in their usual datasets of the hub if not set.
        seed: Seeds sampling and the resampling of the intervals.
    """

    names: str = ""
    limit: int | None = Field(None, ge=1)
    max_model_len: int = Field(4096, ge=2)
    alpaca_eval: AlpacaEvalParameters = AlpacaEvalParameters()
    mt_bench: MTBenchParameters = MTBenchParameters()
    chain_of_thought: ChainOfThoughtParameters = ChainOfThoughtParameters()
    harness: HarnessParameters = HarnessParameters()
    sources: dict[str, TaskSource] = {}
    seed: int = 0

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        known = (*JUDGED, *DOWNSTREAM)
        if unknown := [name for name in [*self.names.split(), *self.sources] if name not in known]:
            raise ValueError(
                f"benchmarks: unknown {', '.join(unknown)}; choose of {' '.join(known)}, or name tasks of "
                "lm-evaluation-harness in harness.tasks"
            )
        return self

    @property
    def chosen(self) -> bool:
        """Whether there is any benchmark to answer."""
        return bool(self.names.split() or self.harness.tasks.split())

    @property
    def downstream(self) -> list[str]:
        """The chosen downstream tasks."""
        return [name for name in self.names.split() if name in DOWNSTREAM]


class BenchmarkParameters(AnsweredBenchmarks):
    """The benchmarks of the evaluation.

    Attributes:
        judge: Who judges; needed for `JUDGED`.
        second_judge: Who judges AlpacaEval as well, to see how far two judges agree; scores are those of `judge`.
        served_models: Other models that are measured beside the policies, by the name that tables give them. Not on
            MMLU, for which a chat server gives no log-probs.
    """

    judge: JudgeParameters | None = None
    second_judge: JudgeParameters | None = None
    served_models: Annotated[dict[FileName, ServerParameters], DIFFERENT_NAMES] = {}

    @model_validator(mode="after")
    def _judged_and_served_ones_can_be(self) -> Self:
        if self.judge is None and (judged := [name for name in JUDGED if name in self.names.split()]):
            raise ValueError(f"benchmarks: {' and '.join(judged)}: set evaluation.benchmarks.judge.model, the judge")
        if self.judge and self.second_judge and self.judge.model == self.second_judge.model:
            raise ValueError("benchmarks: judge and second_judge are the same model")
        if self.served_models and "mmlu" in self.names.split():
            raise ValueError(
                "benchmarks: mmlu compares log-probs behind plain text, which chat servers do not give: measure the "
                "served_models without it"
            )
        return self


class AnswersSpec(Spec):
    """Lets one model answer the benchmarks.

    Attributes:
        method: What tables call it.
        benchmarks: What it answers.
        files: The files of the benchmarks, as `evals.files` collected them; None reads them where they are.
        workspace: The worker's own directory.
    """

    error = InferenceError
    advice = "Finished answers are kept: running again goes on from there."
    environment: ClassVar = {"TQDM_DISABLE": "1"}  # lm-evaluation-harness has a bar per subject of MMLU

    method: str
    benchmarks: AnsweredBenchmarks
    files: Path | None = None
    workspace: Path

    @property
    def title(self) -> str:  # noqa: D102
        return f"answers of {self.method}"

    @property
    def spec_path(self) -> Path:  # noqa: D102
        return self.workspace / f"{self.worker.rpartition('.')[2]}.json"

    @property
    def answers_path(self) -> Path:
        """Table of `BenchmarkAnswerTable`."""
        return self.workspace / "benchmark_answers.parquet"

    @property
    def downstream_scores_path(self) -> Path:
        """Table of `DownstreamScoreTable`."""
        return self.workspace / "downstream_scores.parquet"

    @property
    def downstream_samples_path(self) -> Path:
        """Table of `DownstreamSampleTable`."""
        return self.workspace / "downstream_samples.parquet"

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """The tables that are written."""
        return self.answers_path, self.downstream_scores_path, self.downstream_samples_path


class PolicyAnswersSpec(AnswersSpec):
    """Lets a policy answer the held-out prompts and the benchmarks.

    Attributes:
        held_out: Responses to the held-out prompts; its model, backend and precision are those of the benchmarks too.
    """

    worker = "rao_kedro.evals.policy_answers"

    held_out: GenerationSpec

    @property
    def settings_path(self) -> Path:
        """JSON with how all of it was written."""
        return self.workspace / "generation_settings.json"


class ServedAnswersSpec(AnswersSpec):
    """Lets a model behind a server answer the benchmarks.

    Attributes:
        server: The model.
    """

    worker = "rao_kedro.evals.served_answers"

    server: ServerParameters
