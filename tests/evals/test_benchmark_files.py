"""Files of benchmarks, wherever they lie."""

import gzip
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import fsspec
import pytest
from datasets import Dataset

from rao_kedro.errors import DataError
from rao_kedro.evals import files, locations
from rao_kedro.evals.downstream import sources
from rao_kedro.evals.downstream.parameters import TaskSource
from rao_kedro.evals.downstream.registry import TASKS
from rao_kedro.evals.files import collect_files, with_collected_files
from rao_kedro.evals.locations import read_csv, read_json_rows
from rao_kedro.evals.parameters import AnsweredBenchmarks

ROWS = [{"a": 1}, {"a": 2}]


def test_lists_and_lines_are_read_gzipped_or_not(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps(ROWS))
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with gzip.open(tmp_path / "lines.jsonl.gz", "wt") as file:
        file.write((tmp_path / "lines.jsonl").read_text())
    for name in ("list.json", "lines.jsonl", "lines.jsonl.gz"):
        assert read_json_rows(str(tmp_path / name)) == ROWS
    (tmp_path / "table.csv").write_text("a\n1\n2\n")
    assert read_csv(str(tmp_path / "table.csv"))["a"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.json", None, "cannot be fetched .FileNotFoundError"),
        ("broken.json", "[{", "does not have the format of its extension"),
        ("object.json", "{}", "holds no list of objects"),
        ("words.jsonl", '"a"\n', "holds no list of objects"),
        ("plain.json.gz", "[]", "cannot be fetched .BadGzipFile"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        read_json_rows(str(tmp_path / name))


COMMIT = "0123456789abcdef0123456789abcdef01234567"
BASELINE = [{"instruction": f"Count to {i}.", "output": "1", "generator": "base"} for i in (2, 3)]
QUESTIONS = [{"question_id": 111, "category": "math", "turns": ["1 + 1?", "And doubled?"]}]
REFERENCES = [{"question_id": 111, "choices": [{"turns": ["2", "4"]}]}]
KINDS = ("single-math-v1", "single-math-v1-multi-turn", "pair-math-v1", "pair-math-v1-multi-turn")
PROMPTS = [{"name": name, "system_prompt": "Judge.", "prompt_template": "{ref_answer_1}"} for name in KINDS]
FILES = {
    "alpaca_eval": {"baseline": ("base.json", json.dumps(BASELINE))},
    "mt_bench": {
        name: (f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        for name, rows in (("questions", QUESTIONS), ("reference_answers", REFERENCES), ("judge_prompts", PROMPTS))
    },
}


class Web:
    """A file system in memory that counts what is read from it, and may fail first."""

    def __init__(self, monkeypatch):
        self.fs, self.read, self.failures = fsspec.filesystem("memory"), [], []
        self.fs.store.clear()
        opened = type(self.fs)._open

        def open_counted(fs, path, mode="rb", **how):
            if mode == "rb":
                self.read.append(path)
                if self.failures:
                    raise self.failures.pop()
            return opened(fs, path, mode, **how)

        monkeypatch.setattr(type(self.fs), "_open", open_counted)

    def written(self, folder, limit=1, **changes):
        """Put the files there; return benchmarks that name them."""
        chosen = {}
        for block, named in FILES.items():
            chosen[block] = {}
            for name, (file, text) in named.items():
                location = f"memory://{folder}/{file}"
                self.fs.pipe_file(location, changes.get(name, text).encode())
                chosen[block][name] = location
        return AnsweredBenchmarks(names="alpaca_eval mt_bench", limit=limit, **chosen)


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setattr(locations, "PAUSES", (0.0, 0.0))
    return Web(monkeypatch)


def test_each_file_is_read_once_and_the_manifest_says_what_it_was(web, tmp_path):
    benchmarks = web.written(COMMIT)
    collect_files(benchmarks, tmp_path / "files")
    assert len(web.read) == len(set(web.read)) == 4
    manifest = json.loads((tmp_path / "files/manifest.json").read_text())
    assert set(manifest) == {
        "alpaca_eval.baseline",
        *(f"mt_bench.{name}" for name in ("questions", "reference_answers", "judge_prompts")),
    }
    text = FILES["alpaca_eval"]["baseline"][1]
    assert manifest["alpaca_eval.baseline"] == {
        "location": benchmarks.alpaca_eval.baseline,
        "revision": COMMIT,
        "file": "alpaca_eval.baseline/base.json",
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "rows": 2,
    }
    here = with_collected_files(benchmarks, tmp_path / "files")
    assert (
        read_json_rows(here.alpaca_eval.baseline) == BASELINE and read_json_rows(here.mt_bench.questions) == QUESTIONS
    )
    assert len(web.read) == 4 and type(here) is AnsweredBenchmarks and here.alpaca_eval.max_tokens == 2048
    assert with_collected_files(benchmarks, None) == benchmarks


@pytest.mark.parametrize(("folder", "times"), [(COMMIT, 1), ("main", 2)])
def test_what_lies_at_a_commit_is_not_fetched_again_and_the_rest_is(web, tmp_path, folder, times):
    for _ in range(2):
        collect_files(web.written(folder), tmp_path)
    assert len(web.read) == 4 * times
    (tmp_path / "alpaca_eval.baseline/base.json").write_text("[]")  # was edited: it is not what was fetched
    collect_files(web.written(folder), tmp_path)
    assert read_json_rows(str(tmp_path / "alpaca_eval.baseline/base.json")) == BASELINE


def test_the_net_is_tried_again_and_a_wrong_name_is_not(web, tmp_path):
    benchmarks = web.written("main")
    web.failures = [ConnectionError("reset"), TimeoutError("slow")]
    collect_files(benchmarks, tmp_path / "files")
    assert len(web.read) == 4 + 2
    before = (tmp_path / "files/manifest.json").read_text()
    web.failures = [ConnectionError("reset")] * 3
    with pytest.raises(DataError, match=r"^evaluation\.benchmarks\.alpaca_eval\.baseline: .*json cannot be fetched"):
        collect_files(benchmarks, tmp_path / "files")
    web.fs.rm(benchmarks.mt_bench.judge_prompts)
    web.read.clear()
    with pytest.raises(DataError, match=r"^evaluation\.benchmarks\.mt_bench\.judge_prompts: .*set the parameter"):
        collect_files(benchmarks, tmp_path / "files")
    assert len(web.read) == 4 and (tmp_path / "files/manifest.json").read_text() == before


@contextmanager
def web_server(*statuses):
    """Serve `[]` behind these statuses, the last of them for ever; yield the URL and what was asked."""
    asked, left = [], list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def do_HEAD(self):
            self.send_error(405)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/rows.json", asked
        server.shutdown()


@pytest.mark.parametrize(("status", "tries"), [(503, 3), (404, 1)])
def test_a_web_server_is_asked_again_if_it_is_away_and_not_if_it_has_no_such_file(monkeypatch, status, tries):
    monkeypatch.setattr(locations, "PAUSES", (0.0, 0.0))
    with web_server(status) as (url, asked), pytest.raises(DataError, match=f"cannot be fetched .*{status}"):
        locations.read_bytes(url)
    assert len(asked) == tries
    with web_server(status, 200) as (url, asked):
        if status == 503:
            assert locations.read_bytes(url) == b"[]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": '[{"instruction": "a", "output": "b"}]'}, "alpaca_eval: baseline: row 1 has no generator"),
        ({"baseline": "<html>"}, "alpaca_eval.baseline: .*does not have the format of its extension"),
        ({"reference_answers": ""}, r"mt_bench: MT-Bench question 111 \(math\) has no reference answer"),
        ({"questions": '{"question": "a"}'}, r"mt_bench: questions or reference_answers do not have the form"),
        ({"judge_prompts": json.dumps(PROMPTS[0])}, "mt_bench: MT-Bench's judge prompts lack 'single-math-v1-multi"),
        ({"judge_prompts": '{"prompt": "a"}'}, "mt_bench: judge_prompts do not have the form"),
    ],
)
def test_files_that_a_benchmark_cannot_use_are_refused_before_anything_is_answered(web, tmp_path, changes, message):
    with pytest.raises(DataError, match=rf"^evaluation\.benchmarks\.{message}"):
        collect_files(web.written("main", **changes), tmp_path / "files")
    assert not (tmp_path / "files").exists()


def test_the_files_of_length_control_are_needed_without_a_limit_only(web, tmp_path):
    for name in ("difficulty", "gamed"):
        web.fs.pipe_file(f"memory://main/{name}.csv", b"index,x\n0,1\n")
    tables = {"instruction_difficulty": "memory://main/difficulty.csv", "gamed": "memory://main/gamed.csv"}
    for limit, n_files in ((None, 3), (1, 1)):
        benchmarks = web.written("main", limit)
        benchmarks = AnsweredBenchmarks(
            names="alpaca_eval", limit=limit, alpaca_eval=benchmarks.alpaca_eval.model_copy(update=tables)
        )
        web.read.clear()
        collect_files(benchmarks, tmp_path)
        assert len(web.read) == n_files
        here = with_collected_files(benchmarks, tmp_path).alpaca_eval
        assert (here.gamed == tables["gamed"]) == (limit is not None)


def test_rows_of_the_hub_are_loaded_once_and_read_as_they_were(monkeypatch, tmp_path):
    subjects = sources.SUBJECTS
    assert len(subjects) == 57
    asked = []

    def load(hub_id, subset, split, revision):
        asked.append((hub_id, subset, split, revision))
        if hub_id == "cais/mmlu":
            rows = [
                {"question": f"{subject} of {split}?", "choices": list("abcd"), "answer": 3, "subject": subject}
                for subject in subjects
                if subset in ("all", subject)
            ]
        else:
            rows = [{"question": "1 + 1?\u2028", "answer": "2\n#### 2"}]
        table = Dataset.from_list(rows)
        table.info.download_checksums = {f"hf://datasets/{hub_id}@{COMMIT}/test.parquet": {}}
        return table

    monkeypatch.setattr(sources, "load_dataset", load)
    benchmarks = AnsweredBenchmarks(names="gsm8k mmlu")
    collect_files(benchmarks, tmp_path)
    assert [(hub_id, subset, split) for hub_id, subset, split, _ in asked] == [
        ("openai/gsm8k", "main", "test"),
        ("cais/mmlu", "all", "test"),
        ("cais/mmlu", "all", "dev"),
    ]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {name: (entry["revision"], entry["rows"]) for name, entry in manifest.items()} == {
        "sources.gsm8k": (COMMIT, 1),
        "sources.mmlu": (COMMIT, 2 * 57),
    }
    here = with_collected_files(benchmarks, tmp_path).sources
    asked.clear()
    kept = [sources.read_items("gsm8k", here["gsm8k"]), sources.read_items("mmlu", here["mmlu"], "anatomy", "dev")]
    assert asked == []
    assert kept == [sources.read_items("gsm8k"), sources.read_items("mmlu", None, "anatomy", "dev")]


def test_rows_of_local_files_are_kept_with_their_labels(tmp_path):
    row = {"context": "It is so.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c"}
    (tmp_path / "dev.jsonl").write_text(json.dumps(row))
    (tmp_path / "dev-labels.lst").write_text("2\n")
    source = TaskSource(path=str(tmp_path / "dev.jsonl"))
    benchmarks = AnsweredBenchmarks(names="socialiqa", sources={"socialiqa": source})
    collect_files(benchmarks, tmp_path / "files")
    here = with_collected_files(benchmarks, tmp_path / "files").sources["socialiqa"]
    assert sources.read_items("socialiqa", here) == sources.read_items("socialiqa", source)
    (tmp_path / "dev-labels.lst").write_text("4\n")
    with pytest.raises(DataError, match=r"^evaluation\.benchmarks\.sources\.socialiqa: .*row 1 is not a row of"):
        collect_files(benchmarks, tmp_path / "files")


def test_what_is_read_without_being_told_is_pinned():
    defaults = AnsweredBenchmarks(names="alpaca_eval mt_bench")
    found = [location for benchmark in defaults.judged for location in benchmark.files().values()]
    assert len(found) == 6 and all(files.COMMIT.search(location) for location in found)
    unpinned = [name for name, task in TASKS.items() if not files.COMMIT.fullmatch(task.hub.revision or "")]
    assert unpinned == ["mathqa"]
