"""Rows of preference data: one of each format, and what its responses are rated."""

import json

from data_tables import read_preferences

from rao_kedro.config.data_engineering import PreferenceFiles, PreferenceSource
from rao_kedro.data.tables import PreferenceGroupTable, QuarantineTable

USER = [{"role": "user", "content": "Hi?"}]


def assistant(text):
    return {"role": "assistant", "content": text}


def ranked(text, rank):
    return {"rank": rank, "completion": [assistant(text)]}


ROWS = {
    "simpo": (
        {
            "prompt": "Hi?",
            "all_generated_responses": ["a", "b", "c"],
            "all_rm_scores": [0.1, 0.3, 0.2],
            "chosen": [*USER, assistant("b")],
            "rejected": [*USER, assistant("a")],
        },
        {"a": 0.1, "b": 0.3, "c": 0.2},
    ),
    "distilabel": ({"instruction": "Hi?", "generations": ["a", "b"], "ratings": [5, 2]}, {"a": 5, "b": 2}),
    "nectar": (
        {
            "prompt": "\n\nHuman: Hi?\n\nAssistant: ",
            "answers": [{"answer": " a", "model": "x", "rank": 2.0}, {"answer": "b", "model": "y", "rank": 1.0}],
        },
        {"a": -2, "b": -1},
    ),
    "nemo_rl": ({"context": USER, "completions": [ranked("a", 0), ranked("b", 1)]}, {"a": 0, "b": -1}),
    "ultrafeedback": (
        {"instruction": "Hi?", "completions": [{"response": "a", "overall_score": 7}, {"response": "b"}, {}]},
        {"a": 7, "b": None, None: None},
    ),
    "rated": ({"messages": USER, "responses": ["a", "b"], "ratings": [5, 2]}, {"a": 5, "b": 2}),
    "helpsteer3": (
        {"context": USER, "response1": "a", "response2": "b", "overall_preference": -2},
        {"a": 1, "b": -1},
    ),
    "safe_rlhf": (
        {"prompt": "Hi?", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0},
        {"a": 0, "b": 1},
    ),
    "sharegpt": (
        {
            "conversations": [{"from": "human", "value": "Hi?"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        {"a": 1, "b": 0},
    ),
    "alpaca": ({"instruction": "Hi?", "input": "", "chosen": "a", "rejected": "b"}, {"a": 1, "b": 0}),
    "trl": ({"prompt": "Hi?", "chosen": "a", "rejected": "b"}, {"a": 1, "b": 0}),
    "hh_rlhf": ({"chosen": "\n\nHuman: Hi?\n\nAssistant: a", "rejected": "\n\nHuman: Hi?\n\nAssistant: b"}, None),
    "unpaired": ({"prompt": USER, "completion": [assistant("a")], "label": True}, {"a": 1}),
    "helpsteer2": ({"prompt": "Hi?", "response": "a", "helpfulness": 3, "coherence": 4}, {"a": 3}),
}


def read_train_rows(tmp_path, rows, **source):
    """Write rows to a file and read them as training data; return groups, and the source and reason of bad rows."""
    for name, lines in (("train", rows), ("test", [{"prompt": "held out", "chosen": "a", "rejected": "b"}])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    train = PreferenceSource(path=str(tmp_path / "train.jsonl"), **source)
    files = PreferenceFiles(train=train, test=PreferenceSource(path=str(tmp_path / "test.jsonl")))
    table, quarantined = read_preferences(files)
    QuarantineTable.validate(quarantined)
    train_groups = PreferenceGroupTable.validate(table).query("split == 'train'")
    return train_groups, list(zip(quarantined["source"], quarantined["reason"], strict=True))
