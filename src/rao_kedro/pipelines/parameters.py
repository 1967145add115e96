"""All parameters of the project, which are checked before any node runs."""

from rao_kedro.config.alignment import ReferenceParameters, SeededMethodParameters
from rao_kedro.config.base import Names, Parameters
from rao_kedro.config.data_engineering import DataParameters
from rao_kedro.config.publish import PublishParameters
from rao_kedro.config.reward_benchmarks import RewardBenchmarksParameters
from rao_kedro.config.reward_modeling import RewardModelingParameters
from rao_kedro.config.specs import ModelParameters
from rao_kedro.config.studies import LikelihoodStudyParameters, RewardModelStudyParameters
from rao_kedro.config.training import KLParameters, TrainingParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.evals.parameters import EvaluationParameters


class ProjectParameters(Parameters):
    """All parameters: a block for each pipeline, and what several share. Nodes are given the parts that they read.

    A method with several seeds is one block here; nodes and `context.params` have a block for each of its runs.

    Attributes:
        workers: How nodes start workers.
        model: Where the base model comes from.
        data: Of data_engineering.
        supervised_finetuning: Of that pipeline.
        reward_modeling: Of that pipeline.
        methods: Names of methods: what a run trains and compares.
        reference: The forward pass of the reference model.
        kl_to_reference: How evaluations in training measure it.
        alignment: Methods by their names.
        evaluation: Of that pipeline.
        likelihood_study: Of that pipeline.
        reward_model_study: Of that pipeline.
        reward_benchmarks: Of that pipeline.
        publish: Of that pipeline.
    """

    workers: WorkerParameters
    model: ModelParameters
    data: DataParameters
    supervised_finetuning: TrainingParameters
    reward_modeling: RewardModelingParameters
    methods: Names
    reference: ReferenceParameters
    kl_to_reference: KLParameters
    alignment: dict[str, SeededMethodParameters]
    evaluation: EvaluationParameters
    likelihood_study: LikelihoodStudyParameters
    reward_model_study: RewardModelStudyParameters
    reward_benchmarks: RewardBenchmarksParameters
    publish: PublishParameters = PublishParameters()
