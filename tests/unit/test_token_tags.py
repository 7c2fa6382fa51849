"""Tags of rows of words: every form of them, bad rows, labels of tokens, what is written and described."""

import json

import numpy as np
import pyarrow
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_mtl import InputError, MultiTaskTrainer, TaskSpec, load_task_data
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.task_report import describe_task
from hf_mtl.data.tokenization import tokenize
from hf_mtl.hub.model_card import CardFacts, own_header
from hf_mtl.tasks.kinds import kind_of
from hf_mtl.tasks.labels import has_label, read_labels

TAGS = ("O", "B-PER", "I-PER", "B-LOC")
ROWS = [
    {"words": ["Ada", "Lovelace", "met", "Bob"], "tags": ["B-PER", "I-PER", "O", "B-PER"]},
    {"words": ["in", "Rome"], "tags": ["O", "B-LOC"]},
    {"words": ["never"], "tags": ["O"]},
]
INDICES = [[1, 2, 0, 1], [0, 3], [0]]


def task(**options):
    given = {"text_columns": ("words",), "label_column": "tags", "labels": TAGS, **options}
    return TaskSpec(name="ner", kind="token_classification", **given)


def with_tags(rows, tags):
    return [{**row, "tags": each} for row, each in zip(rows, tags, strict=True)]


def read(rows, split="train", spec=None, **options):
    spec = spec or task()
    found = load_rows(spec, split, given={split: rows}, **options)
    return [each.tolist() for each in read_labels(spec, found, split)]


def table(tags, feature):
    features = Features({"words": List(Value("string")), "tags": List(feature)})
    return Dataset.from_dict({"words": [row["words"] for row in ROWS], "tags": tags}, features)


OTHER_ORDER = ClassLabel(names=["B-LOC", "I-PER", "O", "B-PER"])
FORMS = {
    "names": lambda: ROWS,
    "names of another case": lambda: with_tags(ROWS, [["b-per", "I-Per", "o", "B-PER"], ["O", "B-LOC"], ["O"]]),
    "indices": lambda: with_tags(ROWS, INDICES),
    "indices as texts": lambda: with_tags(ROWS, [list(map(str, row)) for row in INDICES]),
    "a ClassLabel": lambda: table(INDICES, ClassLabel(names=list(TAGS))),
    "a ClassLabel in another order": lambda: table([[3, 1, 2, 3], [2, 0], [2]], OTHER_ORDER),
    "small integers": lambda: table(INDICES, Value("int8")),
    "large strings": lambda: table([row["tags"] for row in ROWS], Value("large_string")),
    "pandas": lambda: Dataset.from_list(ROWS).to_pandas(),
    "some of more rows": lambda: Dataset.from_list([*ROWS, *ROWS]).select([3, 1, 5]),
}


@pytest.mark.parametrize("rows", FORMS.values(), ids=FORMS)
def test_every_form_of_tags_is_read(rows):
    assert read(rows()) == INDICES


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_tags_of_files(tmp_path, suffix):
    path = tmp_path / f"train.{suffix}"
    if suffix == "parquet":
        table([[3, 1, 2, 3], [2, 0], [2]], OTHER_ORDER).to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, ROWS)) if suffix == "jsonl" else json.dumps(ROWS))
    spec = task(files={"train": str(path)})
    assert [each.tolist() for each in read_labels(spec, load_rows(spec, "train"), "train")] == INDICES


def test_what_indices_mean_is_told(caplog):
    with caplog.at_level("INFO", logger="hf_mtl"):
        read(with_tags(ROWS, INDICES))
        read(table(INDICES, ClassLabel(names=["a", "b", "c", "d"])))
        read(ROWS)
    assert caplog.messages == [
        "task 'ner', split 'train': numbers in column 'tags' are indices: 0 = O, 1 = B-PER, 2 = I-PER, 3 = B-LOC",
        "task 'ner', split 'train': none of the data's tags is declared; they go by their indices: a = O, b = B-PER, "
        "c = I-PER, d = B-LOC",
    ]


def test_a_dataset_of_the_hub_whose_tags_have_names_in_its_card(tmp_path):
    names = "".join(f"\n          '{index}': {name}" for index, name in enumerate(OTHER_ORDER.names))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: train.jsonl\n"
        "dataset_info:\n  features:\n  - name: words\n"
        f"    sequence: string\n  - name: tags\n    sequence:\n      class_label:\n        names:{names}\n---\n"
    )
    numbers = with_tags(ROWS, [[3, 1, 2, 3], [2, 0], [2]])
    for rows in (numbers, ROWS):
        (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        spec = task(dataset=str(tmp_path))
        assert [each.tolist() for each in read_labels(spec, load_rows(spec, "train"), "train")] == INDICES


WORDS = ["Ada", "met", "Bob"]
WHERE = r"in row 3 \(the first row is 0\) of the rows given"
BAD = {
    "a tag less": ({"words": WORDS, "tags": ["O", "O"]}, rf"2 tags for 3 words {WHERE}, wanted a tag for each word"),
    "a tag more": ({"words": WORDS, "tags": ["O"] * 4}, rf"4 tags for 3 words {WHERE}"),
    "an unknown tag": (
        {"words": WORDS, "tags": ["O", "B-ORG", "B-X"]},
        rf"tag 'B-ORG' of word 1 \(the first word is 0\) {WHERE} is not one of \['O', 'B-PER', 'I-PER', 'B-LOC'\]",
    ),
    "no tag for a word": ({"words": WORDS, "tags": ["O", None, "O"]}, rf"tag None of word 1 .* {WHERE} is not one of"),
    "no tags": ({"words": WORDS, "tags": None}, rf"column 'tags' has no tags {WHERE}"),
    "an empty list of tags": ({"words": WORDS, "tags": []}, rf"column 'tags' has no tags {WHERE}"),
    "an empty list of words": ({"words": [], "tags": []}, rf"column 'words' has no words {WHERE}"),
    "no word": (
        {"words": ["Ada", None, "Bob"], "tags": ["O"] * 3},
        rf"column 'words' has null among its words {WHERE}",
    ),
    "no words": ({"words": None, "tags": ["O"] * 3}, rf"column 'words' has no text {WHERE}"),
}


@pytest.mark.parametrize(("row", "message"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named_and_skipped_where_that_is_asked_for(row, message, caplog):
    with pytest.raises(InputError, match=f"task 'ner', split 'train': {message}.*--on_bad_row skip"):
        read([*ROWS, row])
    assert read([*ROWS, row, ROWS[0]], on_bad_row="skip") == [*INDICES, INDICES[0]]
    assert "1 of 5 rows of the rows given skipped" in caplog.text and "row 3: " in caplog.text


@pytest.mark.parametrize("index", [4, -1, -100, 1.5])
def test_an_index_that_is_none_is_a_bad_tag(index):
    with pytest.raises(InputError, match=rf"tag {index} of word 0 .* in row 1 .* is not one of"):
        read([{"words": ["a"], "tags": [1]}, {"words": ["a", "b"], "tags": [index, 0]}])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"words": "Ada met Bob", "tags": "O O O"}], r"column 'words' is Value\('string'\), wanted lists of words"),
        ([{"words": WORDS, "tags": "O O O"}], r"column 'tags' is Value\('string'\), wanted lists of tags"),
        ([{"words": WORDS, "tags": [["O"]]}], r"column 'tags' is List\(List\(.*wanted lists of tags"),
        ([{"words": WORDS}], r"no label column 'tags'; the columns are 'words'"),
        ([{"words": WORDS, "tags": None}], r"column 'tags' has no tags in row 0"),
    ],
)
def test_columns_of_other_types_are_refused(rows, message):
    with pytest.raises(InputError, match=f"task 'ner', split 'train': {message}"):
        read(rows)


SPECS = {
    "one tag": ({"labels": ("O",)}, r"labels is \('O',\), wanted two or more different names of tags"),
    "a tag twice": ({"labels": ("O", "B-A", "O")}, "wanted names that look different"),
    "a blank in a tag": ({"labels": ("O", "B-A B")}, r"labels has the tag 'B-A B', wanted one without blanks"),
    "no labels": ({"labels": None}, "labels is None, wanted two or more"),
    "a pair": ({"text_columns": ("a", "b")}, "text_columns names 2 columns, wanted one, of lists of words"),
    "a range": ({"label_range": (0, 1)}, "label_range belongs to regression"),
    "a pooling": ({"pooling": "cls"}, "a task of kind 'token_classification' has no pooling"),
    "columns of labels": ({"label_columns": ("a", "b")}, "has no label_columns"),
    "another kind's metric": ({"metrics": ("accuracy",)}, "'accuracy' .*choose from: entity_f1, token_accuracy"),
}


@pytest.mark.parametrize(("options", "message"), SPECS.values(), ids=SPECS)
def test_a_task_that_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=f"(?s)task 'ner'.*{message}"):
        task(**options)


# ---- test rows without tags ----


@pytest.mark.parametrize("nothing", [None, []])
def test_rows_of_test_may_lack_tags(tokenizer, nothing):
    spec = task()
    found = load_rows(spec, "test", given={"test": with_tags(ROWS, [INDICES[0], nothing, INDICES[2]])})
    labels = read_labels(spec, found, "test")
    assert labels[0].tolist() == INDICES[0] and labels[2].tolist() == INDICES[2]
    assert np.isnan(labels[1]).all() and len(labels[1]) == 2
    assert has_label(labels).tolist() == [True, False, True]
    rows = tokenize(spec, found, tokenizer, 64, labels)
    assert set(rows["labels"][1]) == {-100} and set(rows["labels"][0]) == {-100, 0, 1, 2}
    same_length = read_labels(spec, Dataset.from_list(with_tags(ROWS[1:2] * 2, [[0, 3], nothing])), "test")
    assert has_label(same_length).tolist() == [True, False]


@pytest.mark.parametrize("rows", [[{"words": row["words"]} for row in ROWS], with_tags(ROWS, [None] * 3)])
def test_a_test_split_without_any_tags_has_no_labels(tokenizer, rows):
    data = load_task_data([task()], tokenizer, splits=("test",), rows={"ner": {"test": rows}})
    assert data["test"]["ner"].column_names == ["input_ids", "token_type_ids", "word_numbers", "length"]


# ---- labels of tokens ----


def test_a_words_tag_is_at_its_first_token(tokenizer):
    (rows,) = load_task_data([task()], tokenizer, splits=("train",), rows={"ner": {"train": ROWS}})["train"].values()
    for row, tags, raw in zip(rows, INDICES, ROWS, strict=True):
        own = tokenizer([raw["words"]], is_split_into_words=True).word_ids(0)
        firsts = [own.index(word) for word in range(len(tags))]
        assert row["labels"] == [tags[own[at]] if at in firsts else -100 for at in range(len(own))]
        assert row["length"] == len(row["input_ids"]) == len(row["labels"])
    first = Dataset.from_list(ROWS[:1])
    cut = tokenize(task(), first, tokenizer, 4, read_labels(task(), first, "train"))
    assert cut["labels"][:] == [[*rows["labels"][0][:3], -100]]


def test_tokens_are_kept_for_the_next_run(tokenizer, monkeypatch):
    rows = Dataset.from_list(ROWS)
    first = tokenize(task(), rows, tokenizer, 32)
    monkeypatch.setattr("hf_mtl.model.head_token_classification.encode_words", None)
    assert tokenize(task(), rows, tokenizer, 32)[:] == first[:]


@pytest.fixture
def tokens(tokenizer):
    return load_task_data([task()], tokenizer, splits=("train",), rows={"ner": {"train": ROWS}})["train"]["ner"]


def given_to_trainer(make_model, make_arguments, tokenizer, rows):
    return MultiTaskTrainer(make_model([task()]), make_arguments(), [task()], rows, processing_class=tokenizer)


def changed(tokens, change):
    labels = [list(row) for row in tokens["labels"]]
    return tokens.remove_columns("labels").add_column("labels", change(labels))


def put(row, place, value):
    def change(labels):
        labels[row][place] = value
        return labels

    return change


WANTED = r"wanted a list for each row: -100, or for the first token of a word one of \('O', .*\), as 0 to 3"
GIVEN = {
    "an index too high": (put(1, 1, 4), rf"label 4 in row 1 \(the first row is 0\), {WANTED}"),
    "a negative one": (put(2, 0, -1), rf"label -1 in row 2 .*{WANTED}"),
    "a null": (put(0, 1, None), rf"label None in row 0 .*{WANTED}"),
    "no list": (lambda labels: [labels[0], None, labels[2]], rf"no label in row 1 .*{WANTED}"),
    "one label a row": (lambda labels: [0, 1, 2], rf"column 'labels' holds int64, {WANTED}"),
    "names": (lambda labels: [["O"] * len(row) for row in labels], rf"column 'labels' holds .*string.*{WANTED}"),
    "a label less": (lambda labels: [labels[0][1:], *labels[1:]], r"in row 0 .*, 'labels' is for \d+ tokens and there"),
}


@pytest.mark.parametrize(("change", "message"), GIVEN.values(), ids=GIVEN)
def test_labels_of_given_rows_are_checked(tokens, make_model, make_arguments, tokenizer, change, message):
    given_to_trainer(make_model, make_arguments, tokenizer, changed(tokens, lambda labels: labels))
    with pytest.raises(InputError, match=f"task 'ner': train_dataset: .*{message}|task 'ner': train_dataset {message}"):
        given_to_trainer(make_model, make_arguments, tokenizer, changed(tokens, change))


def test_given_rows_without_word_numbers_are_refused(tokens, make_model, make_arguments, tokenizer):
    with pytest.raises(InputError, match=r"has no column 'word_numbers'; .*load_task_data.* makes such rows"):
        given_to_trainer(make_model, make_arguments, tokenizer, tokens.remove_columns("word_numbers"))


def test_large_lists_of_any_integers_are_labels(tokens, make_model, make_arguments, tokenizer):
    column = pyarrow.array(tokens["labels"][:], pyarrow.large_list(pyarrow.int16()))
    given_to_trainer(
        make_model, make_arguments, tokenizer, tokens.remove_columns("labels").add_column("labels", column)
    )


# ---- what is written and described ----


def test_predictions_have_a_tag_for_each_word_up_to_the_last_that_has_a_token():
    decoded = np.array([[1, 2, 0, 1], [0, -100, 3, -100], [-100, -100, -100, -100]], dtype=np.int32)
    assert kind_of(task()).write(task(), decoded) == ["B-PER I-PER O B-PER", "O _ B-LOC", ""]


def test_the_card_of_tags_alone_says_what_the_model_does():
    assert own_header(CardFacts(repo_id="a/b", tasks=[task()]))["pipeline_tag"] == "token-classification"


def test_tags_are_counted_by_name(tmp_path, tokenizer):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    rows = with_tags(ROWS, [INDICES[0], None, INDICES[2]])
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {"train": str(tmp_path / "rows.jsonl"), "test": str(tmp_path / "test.jsonl")}
    splits = describe_task(task(files=files), tokenizer, 64)["splits"]
    assert splits["train"]["labels"] == {"O": 3, "B-PER": 2, "I-PER": 1, "B-LOC": 1}
    assert splits["test"]["labels"] == {"O": 2, "B-PER": 2, "I-PER": 1, "B-LOC": 0, "without_label": 1}
    assert splits["train"]["tokens"]["longest"] == max(len(tokenizer(" ".join(row["words"])).input_ids) for row in ROWS)


def test_tags_that_go_on_with_nothing_are_counted(caplog):
    rows = [
        {"words": ["Ada", "met", "Bob"], "tags": ["I-PER", "O", "B-PER"]},
        {"words": ["New", "Rome"], "tags": ["B-PER", "I-LOC"]},
        {"words": ["New", "Rome"], "tags": ["B-LOC", "I-LOC"]},
    ]
    ner = task(labels=("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))
    read_labels(ner, Dataset.from_list(rows), "train")
    assert "2 tags go on with an entity that did not begin, such as I-PER" in caplog.text
    caplog.clear()
    read_labels(ner, Dataset.from_list(rows[2:]), "train")
    assert not caplog.text
