"""Every teacher that cannot teach is refused by name, with both values, before anything is computed."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from small_tokenizers import MAKERS
from teachers import save_teacher
from transformers import BertConfig, BertModel

from hf_mtl import InputError, MultiTaskConfig, MultiTaskModel, MultiTaskTrainer
from hf_mtl.data.collator import TaskCollator
from hf_mtl.model.head_classification import ClassificationHead
from hf_mtl.tasks.kind_classification import Classification
from hf_mtl.tasks.kinds import register_kind


@pytest.fixture
def teacher(make_model, tokenizer, tmp_path):
    """Saves a teacher; tasks, tokenizer and the model's options may be others."""

    def save(tasks=None, name="teacher", tokenizer=tokenizer, **config):
        return save_teacher(make_model(tasks, **config), tokenizer, tmp_path / name)

    return save


@pytest.fixture
def make(specs, rows, make_model, make_arguments, tokenizer):
    def trainer(teachers, *, tasks=specs, given=None, collator=None, processing_class=tokenizer, **config):
        return MultiTaskTrainer(
            model=make_model(tasks, **config),
            args=make_arguments(teachers=teachers),
            tasks=tasks,
            train_dataset=given or rows["train"],
            processing_class=processing_class,
            data_collator=collator,
        )

    return trainer


def changed(specs, **changes):
    """The demo's tasks, the first or the second of another declaration."""
    number = 0 if changes.keys() & {"labels"} or changes.get("kind") == "ordinal" else 1
    tasks = list(specs)
    options = {"metrics": (), "main_metric": ""} if "kind" in changes else {}
    tasks[number] = dataclasses.replace(tasks[number], **changes, **options)
    return tasks


DIFFERENCES = {
    "labels in another order": ({"labels": ("positive", "negative")}, "labels[0]: 'positive' with", "'negative' with"),
    "labels of other names": ({"labels": ("negative", "good")}, "labels[1]: 'good' with", "'positive' with"),
    "more labels": ({"labels": ("negative", "positive", "none")}, "number of labels: 3 with", "2 with"),
    "kind of classes": ({"kind": "ordinal"}, "kind: 'ordinal' with", "'classification' with"),
    "kind of values": ({"kind": "similarity"}, "kind: 'similarity' with", "'regression' with"),
    "range": ({"label_range": (0, 1)}, "label_range[1]: 1 with", "5.0 with"),
    "texts read apart": ({"pair_encoding": "separate"}, "pair_encoding: 'separate' with", "'joint' with"),
}


@pytest.mark.parametrize(("changes", "first", "second"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_a_head_that_differs_is_refused_with_both_values(make, teacher, specs, changes, first, second):
    other = changed(specs, **changes)
    task = next(spec.name for spec, same in zip(other, specs, strict=True) if spec != same)
    folder = teacher(other)
    with pytest.raises(InputError) as refused:
        make({task: folder})
    message = str(refused.value)
    assert message.startswith(f"task {task!r}: the teacher {folder!r} (--teachers) differs from the student in its ")
    assert first in message and f"the teacher, {second}" in message


def test_what_is_a_teachers_own_affair_may_differ(make, teacher, specs):
    other = [
        dataclasses.replace(specs[0], pooling="cls", class_weights=(1.0, 2.0), label_smoothing=0.1),
        dataclasses.replace(specs[1], loss="bce", pair_encoding="joint"),
    ]
    folder = teacher(other, layers=1, pooling="max")
    trainer = make({"reviews": folder, "pairs": folder})
    trainer.train()
    assert trainer.state.global_step == 4


def test_a_teacher_of_another_length_is_refused_with_both(make, teacher):
    folder = teacher(max_seq_length=32)
    with pytest.raises(InputError, match="in its max_seq_length: 32 with the teacher, 64 with the student"):
        make({"reviews": folder})
    make({"reviews": folder}, max_seq_length=32)


def test_a_teacher_with_another_tokenizer_is_refused_with_the_first_place_that_differs(make, teacher, tokenizer):
    def saved(name, change):
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        change(rules)
        other = type(tokenizer)(
            tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(rules)),
            **{key: getattr(tokenizer, key) for key in ("pad_token", "unk_token", "cls_token", "sep_token")},
            model_max_length=tokenizer.model_max_length,
        )
        return teacher(name=name, tokenizer=other)

    first = next(iter(tokenizer.get_vocab()))
    assert first not in ("[PAD]", "[UNK]")

    def swap(rules):
        vocab = rules["model"]["vocab"]
        vocab["the"], vocab["is"] = vocab["is"], vocab["the"]

    ids = tokenizer.convert_tokens_to_ids(["the", "is"])
    assert None not in ids and len(set(ids)) == 2
    wanted = rf"tokenizer\.model\.vocab\.(the: {ids[1]} with the teacher, {ids[0]}|is: {ids[0]} .*, {ids[1]}) with"
    with pytest.raises(InputError, match=wanted):
        make({"reviews": saved("swapped", swap)})

    def keep_case(rules):
        rules["normalizer"]["lowercase"] = not rules["normalizer"]["lowercase"]

    with pytest.raises(InputError, match=r"tokenizer\.normalizer\.lowercase: (True|False) with the teacher, "):
        make({"reviews": saved("cased", keep_case)})
    with pytest.raises(InputError, match=r"differs from the student in its (number of )?tokenizer"):
        make({"reviews": teacher(name="bpe", tokenizer=MAKERS["RoBERTa"]())})


def test_a_tokenizer_that_was_saved_and_loaded_is_the_same(make, teacher, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = type(tokenizer).from_pretrained(tmp_path / "saved")
    loaded("some text", truncation=True, max_length=9, padding="max_length")  # a call leaves its mark in the rules
    make({"reviews": teacher()}, processing_class=loaded)


def test_a_folder_that_cannot_be_loaded_has_the_loaders_sentence_with_the_flag(make, teacher, tokenizer, tmp_path):
    folder = teacher()
    with pytest.raises(
        InputError, match=r"the teacher '.*/teachr' \(--teachers\) cannot be loaded: .*mean '.*/teacher'"
    ):
        make({"reviews": str(tmp_path / "teachr")})
    with pytest.raises(
        InputError, match=r"task 'reviews': the teacher 'user/name' \(--teachers\) cannot be loaded: no such"
    ):
        make({"reviews": "user/name"})
    cut = shutil.copytree(folder, tmp_path / "cut")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[:-1])
    with pytest.raises(InputError, match=r"task 'reviews': the teacher '.*/cut' \(--teachers\): .*fetch it again"):
        make({"reviews": str(cut)})
    bare = shutil.copytree(folder, tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match=r"the teacher '.*/bare' \(--teachers\)"):
        make({"reviews": str(bare)})
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    with pytest.raises(
        InputError, match="holds a model of type 'bert', wanted a saved multi-task model with a head 'revi"
    ):
        make({"reviews": str(tmp_path / "encoder")})


def test_a_teacher_without_the_head_lists_those_it_has(make, teacher, specs):
    folder = teacher(specs[:1])
    with pytest.raises(InputError, match=r"unknown head of '.*/teacher' in teachers: 'pairs'; choose from: reviews"):
        make({"reviews": folder, "pairs": folder})


def test_a_name_that_is_no_task_has_the_nearest_one(make):
    with pytest.raises(InputError, match=r"unknown task in teachers: 'review' \(did you mean 'reviews'\?\)"):
        make({"review": "out"})


@pytest.mark.parametrize("kind", ["ordinal"])
def test_a_kind_that_takes_no_teacher_is_refused(make, specs, kind):
    wanted = f"task 'reviews': a task of kind '{kind}' takes no teacher; .*classification, regression, similarity"
    with pytest.raises(InputError, match=wanted):
        make({"reviews": "out"}, tasks=changed(specs, kind=kind))


@pytest.mark.usefixtures("plugins_of_this_test")
def test_a_kind_of_ones_own_takes_a_teacher_only_if_its_head_says_so(make, teacher, specs, monkeypatch):
    class OwnHead(ClassificationHead):
        pass

    @register_kind("own")
    class Own(Classification):
        head = OwnHead

    monkeypatch.setattr("hf_mtl.model.modeling.check_head_files", lambda kinds: None)  # a class of a test has no file
    monkeypatch.setattr("hf_mtl.model.modeling.write_head_files", lambda folder, kinds: None)
    tasks = [dataclasses.replace(specs[0], kind="own", metrics=(), main_metric=""), specs[1]]
    folder = teacher(tasks)
    with pytest.raises(InputError, match="a task of kind 'own' takes no teacher"):
        make({"reviews": folder}, tasks=tasks)
    OwnHead.takes_teacher = True
    trainer = make({"reviews": folder}, tasks=tasks)
    trainer.train()
    assert trainer.state.global_step == 4


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"reviews": 3}, "teachers: 3 for task 'reviews' is no folder and no Hub id; .*write ./NUMBER"),
        ({"reviews": ""}, "teachers: '' for task 'reviews' is no folder"),
        ({"reviews": ["a", "b"]}, r"teachers: \['a', 'b'\] for task 'reviews' is no folder"),
        ("{'reviews'}", "teachers .* is no JSON"),
        ('["out"]', "teachers .* is no JSON object"),
        ('{"reviews": "a", "reviews": "b"}', "'reviews' is there twice"),
    ],
)
def test_what_is_no_mapping_of_tasks_to_folders_is_refused(make_arguments, given, wanted):
    with pytest.raises(InputError, match=wanted):
        make_arguments(teachers=given)


def test_arguments_take_paths_and_json_alike(make_arguments, tmp_path):
    given = {"reviews": str(tmp_path)}
    assert make_arguments(teachers={"reviews": tmp_path}).teachers == given
    assert make_arguments(teachers=json.dumps(given)).teachers == given
    assert make_arguments().teachers == {}


def test_a_teacher_whose_answers_are_not_finite_is_refused_with_the_row(make, teacher, tmp_path):
    folder = teacher()
    model = MultiTaskModel.from_pretrained(folder)
    with torch.no_grad():
        model.heads["pairs"].bias.fill_(torch.nan)
    model.save_pretrained(folder)
    with pytest.raises(InputError, match=r"task 'pairs': its teacher '.*/teacher' gives no finite number for row 0"):
        make({"pairs": folder}).train()


def test_rows_with_a_column_of_that_name_are_refused(make, teacher, rows):
    column = rows["train"]["reviews"].add_column("teacher", np.zeros(96))
    trainer = make({"reviews": teacher()}, given={**rows["train"], "reviews": column})
    with pytest.raises(InputError, match="task 'reviews': train_dataset has a column 'teacher'"):
        trainer.train()


def test_a_collator_that_drops_the_answers_is_told(make, teacher, tokenizer):
    def collate(group):
        return TaskCollator(tokenizer)([{k: v for k, v in row.items() if k != "teacher"} for row in group])

    trainer = make({"reviews": teacher()}, collator=collate)
    with pytest.raises(InputError, match=r"task 'reviews': the batch has no 'teacher'.*data_collator"):
        trainer.train()


def test_without_a_tokenizer_there_is_nothing_to_compare(make, teacher, tokenizer):
    with pytest.raises(InputError, match="teachers want processing_class"):
        make({"reviews": teacher()}, processing_class=None, collator=TaskCollator(tokenizer))


def test_engines_that_shard_are_refused(make, monkeypatch, teacher):
    monkeypatch.setattr("hf_mtl.training.teacher_checks.shards_gradients", lambda model, args: True)
    with pytest.raises(InputError, match="teachers are not for DeepSpeed and FSDP"):
        make({"reviews": teacher()})


def test_a_trainer_that_does_not_train_asks_no_teacher(make_model, make_arguments, specs, rows, tokenizer):
    args = make_arguments(teachers={"reviews": "nowhere"})
    trainer = MultiTaskTrainer(make_model(), args, specs, None, rows["validation"], tokenizer)
    assert "eval_reviews_accuracy" in trainer.evaluate()


@pytest.mark.parametrize("change", ["none", "another", "one more"])
def test_a_resumed_run_has_the_teachers_of_its_checkpoint(
    make_model, make_arguments, specs, rows, tokenizer, teacher, tmp_path, change
):
    folder = teacher()
    saves = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}

    def trainer(teachers):
        args = make_arguments(teachers=teachers, **saves)
        return MultiTaskTrainer(make_model(), args, specs, rows["train"], None, tokenizer)

    trainer({"reviews": folder}).train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    settings = (checkpoint / "settings.json").read_text()
    assert json.loads(settings)["settings"]["teachers"].keys() == {"reviews"} and str(tmp_path) not in settings
    moved = str(shutil.copytree(folder, tmp_path / "moved"))
    again = trainer({"reviews": moved})  # the same teacher
    again.train(resume_from_checkpoint=str(checkpoint))
    assert again.state.global_step == 4
    others = {
        "none": None,
        "another": {"reviews": teacher(name="other", seed=8)},
        "one more": {"reviews": folder, "pairs": folder},
    }
    with pytest.raises(InputError, match=re.escape('has other settings: teachers was {"reviews": "')):
        trainer(others[change]).train(resume_from_checkpoint=str(checkpoint))


def test_nothing_of_teachers_is_saved_with_the_model(make, teacher, tmp_path):
    folder = teacher()
    trainer = make({"reviews": folder})
    trainer.train()
    trainer.save_final()
    trainer.create_model_card()
    files = [file for file in (tmp_path / "out").iterdir() if file.is_file()]
    assert {"config.json", "README.md", "model.safetensors"} <= {file.name for file in files}
    for file in files:
        assert str(folder).encode() not in file.read_bytes(), file
    assert "teacher" not in (tmp_path / "out" / "README.md").read_text()
    config = MultiTaskConfig.from_pretrained(tmp_path / "out").to_dict()
    assert not any("teach" in key for key in config)
