"""All parameters of the project, which are checked before any node runs."""

from rao_kedro.config.alignment import ReferenceParameters, ReferenceRewardParameters, SeededMethodParameters
from rao_kedro.config.base import Names, Parameters
from rao_kedro.config.data_engineering import DataParameters, ModelParameters
from rao_kedro.config.planning import PlanningParameters
from rao_kedro.config.publish import PublishParameters
from rao_kedro.config.reward_benchmarks import RewardBenchmarksParameters
from rao_kedro.config.reward_modeling import RewardModelingParameters
from rao_kedro.config.studies import LikelihoodStudyParameters, RewardModelStudyParameters
from rao_kedro.config.supervised_finetuning import SupervisedFinetuningParameters
from rao_kedro.config.training import KLParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.evals.parameters import EvaluationParameters


class ProjectParameters(Parameters):
    """All parameters: a block for each pipeline, and blocks that several pipelines share.

    A method with several seeds is one block here. Nodes and `context.params` have a block for each of its runs.

    Attributes:
        workers: How nodes start workers.
        planning: What a plan takes for what nobody has counted or measured here yet.
        model: The base model.
        data: The pipeline data_engineering.
        supervised_finetuning: The pipeline supervised_finetuning.
        reward_modeling: The pipeline reward_modeling.
        methods: Names of the methods that a run trains and compares.
        reference: The forward pass of the reference model.
        reference_rewards: The responses of the reference that are rewarded for the methods that need it.
        kl_to_reference: How evaluations during training estimate the KL divergence from the reference.
        alignment: The pipeline alignment: a block for each method, by its name.
        evaluation: The pipeline evaluation.
        likelihood_study: The pipeline likelihood_study.
        reward_model_study: The pipeline reward_model_study.
        reward_benchmarks: The pipeline reward_benchmarks.
        publish: The pipeline publish.
    """

    workers: WorkerParameters
    planning: PlanningParameters = PlanningParameters()
    model: ModelParameters
    data: DataParameters
    supervised_finetuning: SupervisedFinetuningParameters
    reward_modeling: RewardModelingParameters
    methods: Names
    reference: ReferenceParameters
    reference_rewards: ReferenceRewardParameters
    kl_to_reference: KLParameters
    alignment: dict[str, SeededMethodParameters]
    evaluation: EvaluationParameters
    likelihood_study: LikelihoodStudyParameters
    reward_model_study: RewardModelStudyParameters
    reward_benchmarks: RewardBenchmarksParameters
    publish: PublishParameters = PublishParameters()
