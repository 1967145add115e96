"""Arrow schemas of the tables that are written in batches; `data.tables` has the checks of their values."""

import pyarrow as pa

MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
TOKENS = pa.list_(pa.int32())

QUARANTINE = pa.schema(dict.fromkeys(("source", "reason", "detail", "row"), pa.string()))

PREFERENCE_GROUPS = pa.schema(
    {
        "group_id": pa.string(),
        "split": pa.string(),
        "messages": MESSAGES,
        "responses": pa.list_(pa.string()),
        "ratings": pa.list_(pa.float64()),
        "finished": pa.list_(pa.bool_()),
        "source": pa.string(),
        "requirements": pa.string(),
        "rated_by": pa.string(),
        "earlier_turns": pa.list_(MESSAGES),
    }
)

CONVERSATIONS = pa.schema(
    {
        "conversation_id": pa.string(),
        "split": pa.string(),
        "messages": MESSAGES,
        "source": pa.string(),
        "dropped_user_turn": pa.bool_(),
        "other_replies": pa.int32(),
    }
)

TOKENIZED_CONVERSATIONS = pa.schema(
    {
        "conversation_id": pa.string(),
        "split": pa.string(),
        "ids": TOKENS,
        "learned": pa.list_(pa.bool_()),
        "turns": pa.int32(),
        "cut_turns": pa.int32(),
    }
)

TOKENIZED_GROUPS = pa.schema(
    {
        "group_id": pa.string(),
        "split": pa.string(),
        "messages": MESSAGES,
        "responses": pa.list_(pa.string()),
        "requirements": pa.string(),
        "prompt_ids": TOKENS,
        "response_ids": pa.list_(TOKENS),
        "ratings": pa.list_(pa.float64()),
        "finished": pa.list_(pa.bool_()),
        "chosen": pa.int64(),
        "rejected": pa.int64(),
        "earlier_turns": pa.list_(MESSAGES),
        "learned": pa.list_(pa.list_(pa.bool_())),
    }
)

REWARDS = pa.schema(  # what the worker writes that scores responses
    {
        "group_id": pa.string(),
        "rewards": pa.list_(pa.float64()),
        "truncated": pa.list_(pa.bool_()),
        "failures": pa.list_(pa.string()),
        "reward_model": pa.string(),
    }
)

ANNOTATED_GROUPS = pa.schema(
    [
        *TOKENIZED_GROUPS,
        pa.field("raw_rewards", pa.list_(pa.float64())),
        pa.field("truncated", pa.list_(pa.bool_())),
        pa.field("reward_model", pa.string()),
        pa.field("rewards", pa.list_(pa.float64())),
        pa.field("reward_transforms", pa.string()),
        pa.field("reward_mean", pa.float64()),
        pa.field("reward_std", pa.float64()),
        pa.field("reward_quantiles", pa.list_(pa.float64())),
    ]
)

REFERENCE_LOGPROBS = pa.schema(
    {
        "group_id": pa.string(),
        "prompt_logp": pa.float64(),
        "response_logps": pa.list_(pa.float64()),
        "key": pa.string(),
    }
)

REFERENCE_REWARDS = pa.schema(
    {
        "group_id": pa.string(),
        "prompt": pa.string(),
        "raw_rewards": pa.list_(pa.float64()),
        "rewards": pa.list_(pa.float64()),
        "key": pa.string(),
    }
)
