"""Data engineering as a pipeline."""

from kedro.pipeline import Node, Pipeline

from rao_kedro.pipelines.data_engineering.conversation_nodes import collect_conversations, tokenize_turns
from rao_kedro.pipelines.data_engineering.nodes import collect_preferences, prepare_base_model, tokenize


def create_pipeline(conversations: bool = False) -> Pipeline:
    """Return the pipeline from prompts or preference data to `tokenized_groups`.

    Args:
        conversations: Whether supervised fine-tuning learns conversations, which are made here, too.
    """
    groups = Pipeline(
        [
            Node(
                prepare_base_model,
                inputs=["params:model", "params:workers"],
                outputs="base_model",
                name="prepare_base_model",
            ),
            Node(
                collect_preferences,
                inputs=[
                    "params:data.source",
                    "params:data.sampled",
                    "params:data.preferences",
                    "params:data.evaluation_prompts",
                    "prompts",
                    "base_model",
                    "params:workers",
                ],
                outputs=["preference_groups", "unreadable_rows"],
                name="collect_preferences",
            ),
            Node(
                tokenize,
                inputs=[
                    "preference_groups",
                    "unreadable_rows",
                    "prompts",
                    "base_model",
                    "params:data.source",
                    "params:data.sampled",
                    "params:data.preferences",
                    "params:data.evaluation_prompts",
                    "params:data.max_prompt_tokens",
                    "params:data.max_response_tokens",
                    "params:data.t0_length",
                    "params:data.pairing",
                    "params:data.seed",
                    "params:data.num_proc",
                    "params:workers",
                ],
                outputs=["tokenized_groups@path", "evaluation_prompts@pandas", "quarantined_rows", "data_report"],
                name="tokenize",
            ),
        ],
        tags="data_engineering",
    )
    return groups + _conversations() if conversations else groups


def _conversations() -> Pipeline:
    return Pipeline(
        [
            Node(
                collect_conversations,
                inputs=["params:data.conversations", "params:workers"],
                outputs=["conversations", "unreadable_conversations"],
                name="collect_conversations",
            ),
            Node(
                tokenize_turns,
                inputs=[
                    "conversations",
                    "unreadable_conversations",
                    "tokenized_groups@path",
                    "evaluation_prompts@path",
                    "base_model",
                    "params:data.max_conversation_tokens",
                    "params:data.num_proc",
                    "params:workers",
                ],
                outputs=["tokenized_conversations", "quarantined_conversations", "conversation_report"],
                name="tokenize_conversations",
            ),
        ],
        tags="data_engineering",
    )
