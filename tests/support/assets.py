"""Small files of real data, for tests; `tests/assets/README.md` says where each is from."""

import gzip
import json
from pathlib import Path

import pandas as pd

ASSETS = Path(__file__).parents[1] / "assets"
ALPACA_MODELS = ("claude-2", "FuseChat-Llama-3.2-1B-Instruct", "gpt-3.5-turbo-1106_verbose", "vicuna-7b-v1.5")
DOWNSTREAM_FILES = {
    "gsm8k": "gsm8k-test.jsonl.gz",
    "arc_easy": "ARC-Easy-test.json.gz",
    "arc_challenge": "ARC-Challenge-test.json.gz",
    "mathqa": "mathqa-test.json.gz",
    "socialiqa": "socialiqa-dev.jsonl.gz",
    "mmlu": "mmlu.zip",
}
DOWNSTREAM_FILES = {task: ASSETS / "downstream" / name for task, name in DOWNSTREAM_FILES.items()}


def json_lines(name):
    """Return the rows of a `.jsonl.gz` file of the assets."""
    with gzip.open(ASSETS / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def alpaca_annotations(model):
    """Return AlpacaEval's published annotations of a model against gpt4_1106_preview, without their texts.

    Preferences are the published ones. An output is a text of the published length that no other row has: the win rates
    read nothing else of it.
    """
    table = pd.read_csv(ASSETS / "alpaca_eval/annotations.csv.gz").query("model == @model").set_index("index")
    texts = {f"output_{n}": [f"{i:03d}".ljust(k, "x") for i, k in table[f"length_{n}"].items()] for n in (1, 2)}
    instructions = [f"Instruction {i}" for i in table.index]
    return pd.DataFrame(
        {"instruction": instructions, **texts, "generator_1": "gpt4_1106_preview", "generator_2": model}
    ).assign(preference=table["preference"].to_numpy())


def alpaca_table(name):
    """Return one of the other tables of AlpacaEval: its leaderboard, its weights, or an input of the length control."""
    path = ASSETS / "alpaca_eval" / name
    return pd.read_csv(path if path.exists() else path.with_name(f"{name}.gz"))
