"""On-policy rounds of the tiny chain: what a round samples, trains on and leaves, and what a second run makes again."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from projects import end_tracking, open_project, run

from rao_kedro.errors import DataError, ParameterError
from rao_kedro.framework.session import StudySession
from rao_kedro.generation import worker
from rao_kedro.identity import path_hash

ROUNDS = {"n": 2, "prompts_per_round": 6, "samples_per_prompt": 3}
RUNS, MEASURED = ("rao", "simpo", "rloo", "ppo", "qrpo"), ("rao", "simpo")
TRAINED = ("data_engineering", "supervised_finetuning", "reward_modeling", "alignment")


def parameters(**rounds):
    return {"rounds": ROUNDS | rounds, "methods": " ".join(RUNS)}


class Data:
    def __init__(self, project):
        self.project, self.root = project, project / "data/test"

    def table(self, name):
        return pq.read_table(self.root / f"05_model_input/{name}.parquet").to_pandas()

    def log(self, run_):
        return pd.read_csv(self.root / f"07_model_output/{run_}_training_log.csv")

    def model(self, name):
        return self.root / "06_models" / name


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    with open_project(tmp_path_factory.mktemp("rounds")) as project:
        run(project, *TRAINED, params=parameters())
        run(project, "evaluation", params=parameters() | {"methods": " ".join(MEASURED)})
        yield Data(project)


def stale(*pipelines, **params):
    end_tracking()
    with StudySession.create(Path.cwd(), env="test", runtime_params=params) as session:
        return dict(session.stale_nodes(pipeline_names=[*pipelines] or None))


def test_a_round_trains_on_what_its_policy_sampled(chain):
    given = chain.table("reward_annotated")
    prompts = given[given["split"] == "train"].set_index("group_id")
    for run_ in RUNS:
        for k in (1, 2):
            table = chain.table(f"rounds/{run_}_round_{k}_reward_annotated")
            train = table[table["split"] == "train"]
            sampled = chain.table(f"rounds/{run_}_round_{k}_generations").groupby("prompt_id")["response"].agg(list)
            assert len(sampled) == 6 and set(train["group_id"]) <= set(sampled.index)
            for group in train.itertuples():
                assert list(group.prompt_ids) == list(prompts.loc[group.group_id, "prompt_ids"])
                assert list(group.responses) == sampled[group.group_id]
                assert group.ratings[group.chosen] == max(group.ratings)
                assert run_ != "simpo" or group.ratings[group.chosen] > group.ratings[group.rejected]
            of_data = table[table["split"] == "validation"]
            assert set(of_data["group_id"]) == set(given[given["split"] == "validation"]["group_id"])


def test_the_first_round_samples_from_the_sft_model_and_the_second_from_the_first_ones_policy(chain):
    first, second = (
        [list(chain.table(f"rounds/{run_}_round_{k}_generations")["response"]) for run_ in RUNS] for k in (1, 2)
    )
    assert len({tuple(of_run) for of_run in first}) == 1  # one table for all methods
    assert first[0] != second[0]
    assert len([*(chain.root / "workspaces/generations").iterdir()]) == 1 + len(RUNS)


def test_what_was_sampled_is_not_sampled_again(chain, monkeypatch):
    monkeypatch.setattr(worker, "_generate_shards", lambda *_: pytest.fail("a finished table is generated again"))
    nodes = [f"{run_}.round_{k}.generate" for run_ in RUNS for k in (1, 2)]
    run(chain.project, "alignment", params=parameters(), node_names=nodes)


def test_the_reference_of_all_rounds_is_the_sft_model(chain):
    whole = chain.table("reference_logprobs").set_index("group_id")
    for k in (1, 2):
        table = chain.table(f"rounds/rao_round_{k}_reference_logprobs")
        groups = chain.table(f"rounds/rao_round_{k}_reward_annotated").set_index("group_id")
        held_out = table[table["group_id"].map(groups["split"]) == "validation"]
        for row in held_out.itertuples():
            assert [*row.response_logps] == pytest.approx([*whole.loc[row.group_id, "response_logps"]])


def test_a_second_round_trains_on_from_the_policy_of_the_first(chain):
    for name in ("log_ratio_chosen", "log_ratio_rejected"):
        log = chain.log("rao")
        starts = log[log[f"eval_{name}"].notna() & (log["step"] == log.groupby("round")["step"].transform("min"))]
        ends = log[log[f"eval_{name}"].notna()].groupby("round").last()
        first, second = starts.set_index("round")[f"eval_{name}"]
        assert first == 0 and second == pytest.approx(ends.loc[1, f"eval_{name}"], abs=1e-4) and second != 0


def test_log_z0_is_that_of_the_first_rounds_rewards_in_every_round(chain):
    log = chain.log("rao")
    log_z0 = (log["log_z"] - log["prompt_log_ratio"]).dropna()
    table = chain.table("rounds/rao_round_1_reward_annotated")
    rewards = table[table["split"] == "train"]["rewards"]
    assert set(log["round"]) == {1, 2}
    assert [*log_z0] == pytest.approx([rewards.map(lambda r: sum(r) / len(r)).mean() / 0.05] * len(log_z0), abs=1e-3)


def test_the_log_of_a_run_goes_on_from_round_to_round(chain):
    log = chain.log("simpo")
    steps = log[log["loss"].notna()]
    assert list(steps["step"]) == list(range(1, len(steps) + 1)) and log["epoch"].max() == 2.0
    parts = [chain.log(f"simpo_round_{k}") for k in (1, 2)]
    assert pd.concat(parts)["loss"].tolist() == pytest.approx(log["loss"].tolist(), nan_ok=True)


def test_the_policy_of_a_run_is_that_of_its_last_round(chain):
    for run_ in RUNS:
        assert path_hash(chain.model(run_)) == path_hash(chain.model(f"{run_}_round_2"))
        assert path_hash(chain.model(run_)) != path_hash(chain.model(f"{run_}_round_1"))


def test_rounds_are_rows_of_the_leaderboard_and_points_of_a_figure(chain):
    board = pd.read_csv(chain.root / "08_reporting/leaderboard.csv").set_index("method")
    rounds = {"sft": 0} | dict.fromkeys(MEASURED, 2) | {f"{run_}_round_1": 1 for run_ in MEASURED}
    assert board["rounds"].to_dict() == rounds
    figure = json.loads((chain.root / "08_reporting/scores_by_round.json").read_text())
    drawn = {(trace["name"], tuple(map(round, trace["x"]))) for trace in figure["data"]}
    assert drawn == {(run_, (0, 1, 2)) for run_ in MEASURED}
    report = (chain.root / "08_reporting/report.html").read_text()
    assert "Rounds" in report


def test_nothing_is_stale_after_a_run_and_more_rounds_go_on_from_the_last_one(chain):
    assert stale("alignment", **parameters()) == {}
    more = stale("alignment", **parameters(n=3))
    again = {name.rpartition(".")[0] for name in more if ".round_" in name}
    assert again == {f"{run_}.round_3" for run_ in RUNS}
    fewer = parameters(evaluate_every=0) | {"methods": " ".join(MEASURED)}
    assert stale("alignment", "evaluation", **fewer).keys() == {
        *("compare_methods", "plot_rounds", "plot_scores", "write_report")
    }


def test_another_sampling_makes_every_round_again(chain):
    others = ("rao", "simpo")  # rloo and ppo take no other
    again = stale(**parameters(sampling={"temperature": 0.7}) | {"methods": " ".join(others)})
    assert {f"{run_}.round_{k}.{node}" for run_ in others for k in (1, 2) for node in ("generate", "annotate")} <= {
        *again
    }
    assert not {"score_reference", "annotate_responses"} & {*again}


def test_an_evaluation_that_lacks_a_round_is_refused_and_says_nothing_of_stale_ones(chain, caplog):
    params = parameters(n=4, sampling={"temperature": 0.7}) | {"methods": "simpo"}
    assert "simpo.round_1.generate" in stale(**params)
    with pytest.raises(DataError, match=r"simpo\.round_3\.policy does not exist: .*same --params"):
        run(chain.project, "evaluation", params=params)
    assert "takes what is stale" not in caplog.text


def test_an_option_names_a_round_or_all_of_a_run(chain):
    for options, expected in (
        ({"namespaces": ["rao.round_2"]}, {"rao.round_2"}),
        ({"namespaces": ["rao"]}, {"rao", "rao.round_1", "rao.round_2"}),
        ({"tags": ["rao"]}, {"rao", "rao.round_1", "rao.round_2"}),
    ):
        with StudySession.create(Path.cwd(), env="test", runtime_params=parameters()) as session:
            nodes = session.selected(pipeline_names=["alignment"], **options).nodes
        assert {node.namespace for node in nodes} == expected


@pytest.mark.parametrize(
    ("rounds", "sentence"),
    [
        ({"sampling": {"n": 2}}, "sampling.n is 2: set samples_per_prompt in its place"),
        ({"reference": "previous", "warm_start": False}, "set warm_start: true"),
        ({"chat_template_kwargs": {"a": 1}}, "set the variables in a chat template of your own"),
        ({"samples_per_prompt": 1}, "samples_per_prompt"),
    ],
)
def test_rounds_that_cannot_be_are_refused_before_anything_runs(chain, rounds, sentence):
    with pytest.raises(ParameterError, match=sentence):
        stale(**parameters(**rounds))


def test_the_ratio_to_the_sampling_policy_starts_at_one_in_every_round(chain):
    for run_ in ("rloo", "ppo"):
        log = chain.log(run_)
        first = log[log["loss"].notna()].groupby("round").first()
        assert [*first["approximate_kl"]] == pytest.approx([0.0, 0.0], abs=1e-8)
        assert [*first["clip_fraction"]] == [0.0, 0.0]


def test_the_value_network_of_ppo_goes_on_from_round_to_round(chain):
    specs = [json.loads((chain.root / f"workspaces/ppo.round_{k}/spec.json").read_text()) for k in (1, 2)]
    assert [Path(spec["value_dir"]).name for spec in specs] == ["reward_model", "ppo_round_1_value_network"]
    hashes = {path_hash(chain.model(name)) for name in ("ppo_round_1_value_network", "ppo_round_2_value_network")}
    assert len(hashes | {path_hash(chain.model("reward_model"))}) == 3


@pytest.mark.parametrize(
    ("method", "rounds", "sentence"),
    [
        ("rloo", {"sampling": {"temperature": 0.7}}, "rounds.sampling.temperature 0.7 gives it something else"),
        ("ppo", {"sampling": {"top_p": 0.9}}, "rounds.sampling.top_p 0.9 gives it something else"),
        ("ppo", {"offline_share": 0.5}, "rounds.offline_share gives it something else"),
        ("rloo", {"warm_start": False}, "rounds.warm_start: false gives it something else"),
        (
            "qrpo",
            {"reference": "previous"},
            "reads rewards of the SFT model's responses, .* set rounds.reference: fixed",
        ),
    ],
)
def test_a_method_that_could_not_train_in_rounds_is_refused(chain, method, rounds, sentence):
    with pytest.raises(ParameterError, match=sentence):
        stale(methods=method, alignment={method: {"rounds": ROUNDS | rounds}})


def test_rloo_needs_rounds(chain):
    with pytest.raises(
        ParameterError, match=r"alignment.rloo learns from what its own policy .* given responses: set rounds.n"
    ):
        stale(methods="rloo")


def test_adaptive_control_changes_beta_from_round_to_round(chain):
    control = {"kl_control": "adaptive", "kl_target": 1000.0, "kl_horizon": 100.0}
    changed = {"ppo": {"parameters": control}}
    run(chain.project, "alignment", params=parameters() | {"alignment": changed}, namespaces=["ppo"])
    log = chain.log("ppo")
    first, second = log[log["loss"].notna()].groupby("round")["beta"].first()
    n = sum(map(len, chain.table("rounds/ppo_round_2_reward_annotated").query("split == 'train'")["rewards"]))
    assert second == pytest.approx(first * (1 - 0.2 * n / 100))
