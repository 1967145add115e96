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
    }
)
