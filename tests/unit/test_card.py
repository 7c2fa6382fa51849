"""The model card parses, tells the evaluation's numbers, and keeps what people wrote."""

import dataclasses

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_mtl import TaskSpec, load_tasks
from hf_mtl.hub.card_merge import END, START, merged_card, split_card
from hf_mtl.hub.model_card import CardFacts, model_card, public_source

SST2, STSB = load_tasks("glue", tasks=["sst2", "stsb"])


@pytest.fixture
def facts():
    return CardFacts(
        repo_id="user/demo",
        tasks=[SST2, STSB],
        metrics={"eval_sst2_accuracy": 0.9375, "eval_stsb_pearson": 0.8812345, "eval_stsb_spearman": 0.87},
        sizes={"train": {"sst2": 67349, "stsb": 5749}, "validation": {"sst2": 872}},
        setup={"gradients combined by": "pcgrad"},
        conflicts=0.4821,
        curves=True,
        base_model="sentence-transformers/all-mpnet-base-v2",
        licence="apache-2.0",
    )


def test_the_card_holds_the_facts(facts):
    text = model_card(facts)
    card = ModelCard(text)
    assert card.data.base_model == facts.base_model and card.data.license == "apache-2.0"
    found = {(row.dataset_name, row.metric_type): row.metric_value for row in card.data.eval_results}
    assert found == {("sst2", "accuracy"): 0.9375, ("stsb", "pearson"): 0.8812345, ("stsb", "spearman"): 0.87}
    assert {row.dataset_type for row in card.data.eval_results} == {"nyu-mll/glue"}
    for words in ("| sst2 | classification | negative, positive |", "| 67,349 | 872 |", "| stsb | pearson | 88.12 |"):
        assert words in text, words
    for words in ("| gradients combined by | pcgrad |", "conflicted | 48.2% |", "](training_curves.png)", "0 to 5"):
        assert words in text, words


def test_what_is_not_known_is_left_out():
    text = model_card(CardFacts(repo_id="user/demo", tasks=[SST2]))
    header = split_card(text).header
    assert not {"license", "base_model", "model-index"} & set(header)
    for words in ("conflicted", "training_curves", "## Scores", "## Training"):
        assert words not in text


def test_writing_it_again_changes_nothing(facts):
    once = model_card(facts)
    assert model_card(facts, once) == model_card(facts, once, once) == model_card(facts, "", once) == once


def test_what_a_person_wrote_stays(facts):
    written = model_card(facts)
    header, _, body = written.partition("---\n\n")
    edited = (
        header.replace("pipeline_tag: text-classification", "pipeline_tag: sentence-similarity\nlanguage: en")
        .replace("tags:\n", "tags:\n- mine\n")
        .replace(
            "  results:\n",
            "  results:\n  - task: {type: other}\n    dataset: {name: mine, type: user/mine}\n"
            "    metrics: [{type: accuracy, value: 0.5}]\n",
        )
        + "---\n\n# My own words\n\n"
        + body
        + "\n## Limits\n\nNot for medicine.\n"
    )
    better = dataclasses.replace(facts, metrics={"eval_sst2_accuracy": 0.95}, tasks=[SST2], licence=None)
    again = model_card(better, edited)
    card = split_card(again)
    header = card.header
    assert (card.above, card.below) == ("# My own words", "## Limits\n\nNot for medicine.")
    assert header["language"] == "en" and header["pipeline_tag"] == "sentence-similarity" and "mine" in header["tags"]
    assert header["license"] == "apache-2.0"
    results = {row.dataset_name: row.metric_value for row in ModelCard(again).data.eval_results}
    assert results == {"sst2": 0.95, "mine": 0.5}
    assert "93.75" not in again and again.count(START) == again.count(END) == 1


def test_a_card_without_marks_is_kept_whole(facts):
    again = model_card(facts, "---\nlicense: mit\n---\n# Mine\n\nAll by hand.\n")
    assert split_card(again).above == "# Mine\n\nAll by hand."
    assert "mit" not in yaml.safe_dump(split_card(again).header)  # a licence that the run was given wins
    unnamed = dataclasses.replace(facts, licence=None)
    assert split_card(model_card(unnamed, "---\nlicense: mit\n---\n")).header["license"] == "mit"


def test_words_in_the_folder_and_on_the_hub_are_both_kept(facts):
    here, there = (model_card(facts).replace(END, f"{END}\n\n{words}") for words in ("Written here.", "Written there."))
    assert split_card(model_card(facts, here, there)).below == "Written here.\n\nWritten there."
    assert split_card(model_card(facts, model_card(facts), there)).below == "Written there."


@pytest.mark.parametrize("source", ["./data", "/home/maria/data", "embedded:demo", "FOLDER", "../data"])
def test_where_data_lie_on_this_machine_is_not_told(tmp_path, monkeypatch, source):
    (tmp_path / "FOLDER").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = dataclasses.replace(SST2, dataset=source)
    assert public_source(spec) is None
    text = model_card(CardFacts(repo_id="user/demo", tasks=[spec], metrics={"eval_sst2_accuracy": 0.5}))
    assert source not in text
    assert ModelCard(text).data.eval_results[0].dataset_type == "sst2"


def test_local_files_are_not_told():
    spec = TaskSpec(
        name="a", kind="regression", text_columns=("x",), label_range=(0, 1), files={"train": "/home/maria/t.csv"}
    )
    assert "maria" not in model_card(CardFacts(repo_id="user/demo", tasks=[spec], metrics={"eval_a_pearson": 0.5}))


FOREIGN = {
    "task": {"type": "other"},
    "dataset": {"name": "mine", "type": "user/mine"},
    "metrics": [{"type": "accuracy", "value": 0.5}],
}


def edited(card, *, header=None, row=None, **texts):
    """A card after a person changed keys of its front matter, added a result, and replaced words."""
    _, front, body = card.split("---\n", 2)
    values = {**yaml.safe_load(front), **(header or {})}
    if row:
        values["model-index"][0]["results"].append(row)
    for word, other in texts.items():
        body = body.replace(word, other)
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n{body}"


def test_what_was_changed_on_the_hub_wins_over_the_folder(facts):
    folder = edited(model_card(facts), header={"tags": ["here", "shared"], "language": "de"})
    changed = {"tags": ["shared", "there"], "language": "en", "license": "mit", "pipeline_tag": "sentence-similarity"}
    hub = edited(model_card(facts), header=changed, row=FOREIGN)
    better = dataclasses.replace(facts, metrics={"eval_sst2_accuracy": 0.95})
    for card in (model_card(better, folder, hub), merged_card(folder, hub, facts.repo_id)):
        header = split_card(card).header
        assert {key: header[key] for key in changed if key != "tags"} == {k: changed[k] for k in changed if k != "tags"}
        tags = header["tags"]
        assert {"hf_mtl", "here", "there", "shared"} <= set(tags) and len(tags) == len(set(tags))
        assert header["model-index"][0]["results"].count(FOREIGN) == 1
    found = {row.dataset_name: row.metric_value for row in ModelCard(model_card(better, folder, hub)).data.eval_results}
    assert found == {"sst2": 0.95, "mine": 0.5}


def test_what_the_generator_wrote_before_gives_way_to_what_it_writes_now(facts):
    now = dataclasses.replace(facts, licence="bsd", base_model="user/other")
    header = split_card(model_card(now, model_card(facts), model_card(facts))).header
    assert header["license"] == "bsd" and header["base_model"] == "user/other"
    by_hand = edited(model_card(facts), header={"license": "mit"})
    assert split_card(model_card(now, by_hand, model_card(facts))).header["license"] == "mit"


def test_a_value_changed_on_the_hub_replaces_the_folders(facts):
    once = edited(model_card(facts), row=FOREIGN)
    corrected = {**FOREIGN, "metrics": [{"type": "accuracy", "value": 0.75}]}
    there = edited(model_card(facts), row=corrected)
    results = split_card(model_card(facts, once, there)).header["model-index"][0]["results"]
    assert corrected in results and FOREIGN not in results


def test_a_sentence_changed_on_the_hub_appears_once(facts):
    pushed = model_card(facts, model_card(facts).replace(END, f"{END}\n\nNot for children."))
    there = edited(pushed, children="medicine")
    assert split_card(model_card(facts, pushed, there)).below == "Not for medicine."
    assert split_card(merged_card(there, pushed, facts.repo_id)).below == "Not for medicine."  # changed in the folder
    here = edited(pushed, children="cats")
    assert split_card(merged_card(here, there, facts.repo_id)).below == "Not for cats.\n\nNot for medicine."
    deleted = pushed.replace("Not for children.", "")
    assert split_card(model_card(facts, pushed, deleted)).below == ""


def test_words_that_were_never_pushed_stay(facts):
    unpushed = model_card(facts, "Written here.")
    there = model_card(facts, "Written there.")
    assert split_card(model_card(facts, unpushed, there)).above == "Written here.\n\nWritten there."


def test_a_merged_card_is_the_folders_where_nobody_wrote(facts):
    card = model_card(facts)
    assert merged_card(card, "", facts.repo_id) == merged_card(card, card, facts.repo_id) == card
    before = dataclasses.replace(facts, metrics={"eval_sst2_accuracy": 0.1, "eval_stsb_pearson": 0.2})
    assert merged_card(card, model_card(before), facts.repo_id) == card


def test_a_card_written_in_the_folder_only_keeps_on_record_what_was_pushed(facts):
    pushed = model_card(facts, model_card(facts).replace(END, f"{END}\n\nNot for children."))
    here = model_card(facts, edited(pushed, children="cats"), None)
    assert split_card(model_card(facts, here, pushed)).below == "Not for cats."  # changed in the folder only
    assert split_card(merged_card(here, pushed, facts.repo_id)).below == "Not for cats."


def test_a_card_goes_to_the_hub_under_the_name_that_the_model_gets_there(facts):
    local = model_card(dataclasses.replace(facts, repo_id="out"))
    assert 'model="out"' in local
    assert merged_card(local, "", facts.repo_id) == model_card(facts)


def test_a_broken_header_is_written_anew_and_the_words_stay(facts, caplog):
    broken = "---\nlicense: [mit\ntags: a: b\n---\nBy hand.\n"
    card = split_card(model_card(facts, "", broken))
    assert card.above == "By hand." and card.header["license"] == "apache-2.0"
    assert "the card's header is no YAML and is written anew" in caplog.text


@pytest.mark.parametrize(
    "header",
    [
        {"model-index": [{"name": "mine", "results": [{"dataset": {"name": "x"}, "metrics": []}]}]},
        {"model-index": [{"name": "mine", "results": [{"task": "words"}, None, "row"]}, None]},
        {"model-index": "none", "tags": "mine"},
    ],
)
def test_metadata_of_any_shape_are_merged(facts, header):
    found = split_card(model_card(facts, f"---\n{yaml.safe_dump(header)}---\n")).header
    assert len(found["model-index"][0]["results"]) >= 2
    assert found["tags"][-1] == header.get("tags", found["tags"][-1])


def test_an_evaluation_leaves_the_training_section_as_it_was(facts):
    trained = model_card(facts)
    only = dataclasses.replace(facts, setup={}, conflicts=None, curves=False, metrics={"eval_sst2_accuracy": 0.99})
    for again in (model_card(only, trained), model_card(only, "", trained)):
        assert again.count("## Training") == again.count("| gradients combined by | pcgrad |") == 1
        assert again.count("](training_curves.png)") == 1 and "99.00" in again and "93.75" not in again


def test_a_branch_is_named_in_the_code_and_left_out_for_the_main_one(facts):
    card = model_card(dataclasses.replace(facts, revision="dev"))
    assert 'model="user/demo", revision="dev", trust_remote_code=True' in card
    assert 'from_pretrained("user/demo", revision="dev")' in card
    for revision in (None, "main", "refs/pr/1"):
        assert model_card(dataclasses.replace(facts, revision=revision)) == model_card(facts)
        assert merged_card(card, "", "user/demo", revision) == model_card(facts)
    assert merged_card(model_card(facts), "", "user/demo", "dev") == card
    assert 'model="me/other", revision="v1", trust' in merged_card(card, "", "me/other", "v1")
