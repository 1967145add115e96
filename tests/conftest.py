"""Shared fixtures: checkpoints, tiny and real."""

from pathlib import Path

import pytest

from rao_kedro.models.tiny import build_tiny_checkpoint


def pytest_sessionstart(session: pytest.Session) -> None:
    """In a fresh clone, make the project's MLflow database before processes share the tests: two at once cannot."""
    database = Path(__file__).parents[1] / "mlflow.db"
    if not hasattr(session.config, "workerinput") and not database.exists():
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{database}").search_experiments()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint; do not write into it."""
    return build_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_reward_model(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A classifier with the tiny checkpoint's body and a random head, as if trained here; do not write into it."""
    import torch

    from rao_kedro.models.chat_format import load_chat_format
    from rao_kedro.models.loading import new_reward_model, save_checkpoint
    from rao_kedro.models.reward_head import READ_AT, padding_token_id

    chat = load_chat_format(tiny_checkpoint)
    tokenizer = chat.tokenizer
    tokenizer.pad_token_id = padding_token_id(tokenizer, chat.end_of_turn_ids)
    model = new_reward_model(tiny_checkpoint)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(model.score.weight, std=0.3)
    model.config.pad_token_id = tokenizer.pad_token_id
    setattr(model.config, READ_AT, "end_of_turn")
    directory = tmp_path_factory.mktemp("reward") / "model"
    save_checkpoint(model, tokenizer, directory)
    return directory


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged 135M model as a checkpoint; do not write into it."""
    from rao_kedro.models.gguf import convert_gguf, packaged_gguf

    with packaged_gguf() as path:
        return convert_gguf(path, None, tmp_path_factory.mktemp("smollm2") / "model")
