"""Tasks over one file read it once and tokenise its texts once, and get the rows that each would get alone."""

import collections
import gzip
import itertools
import json

import datasets
import pandas as pd
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from hf_mtl import InputError, TaskSpec, load_task_data
from hf_mtl.data.raw_rows import read_splits
from hf_mtl.data.shared_reads import SharedReads
from hf_mtl.data.task_report import describe_task
from hf_mtl.tasks import tables
from hf_mtl.tasks.kinds import KINDS

WORDS = ["the film is good", "the plot is dull", "a book", "the cast works", "nothing works", "the ending drags"]
FRAME = pd.DataFrame(
    {
        "text": WORDS * 4,
        "other": [*reversed(WORDS)] * 4,
        "mood": ["glad", "sad", "calm"] * 8,
        "topic": ["film", "book"] * 12,
        "score": [round(number / 7, 3) for number in range(24)],
        "tags": ["film|good", "dull", "film"] * 8,
    }
)
MOOD = {"kind": "classification", "label_column": "mood", "labels": ("sad", "calm", "glad")}
TOPIC = {"kind": "classification", "label_column": "topic", "labels": ("film", "book")}
SCORE = {"kind": "regression", "label_column": "score", "label_range": (0.0, 4.0)}
TAGS = {
    "kind": "multi_label",
    "label_column": "tags",
    "label_delimiter": "|",
    "labels": ("film", "good", "dull"),
}


def spec(name, files=(), **changes):
    return TaskSpec(**{"name": name, "text_columns": ("text",), "files": dict(files), **changes})


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def opened(monkeypatch):
    """Name of a file -> how often it was opened as a table."""
    counts = collections.Counter()

    def counting(function):
        def count(path, *args, **options):
            counts[str(path).rpartition("/")[2]] += 1
            return function(path, *args, **options)

        return count

    monkeypatch.setattr(tables, "open_text", counting(tables.open_text))
    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", counting(pyarrow.parquet.ParquetFile))
    return counts


@pytest.fixture
def tokenised(tokenizer, monkeypatch):
    """The texts that the tokenizer was called with."""
    texts = []

    def count(self, *columns, real=PreTrainedTokenizerBase.__call__, **options):
        texts.extend(columns[0])
        return real(self, *columns, **options)

    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", count)
    return texts


def write(path, frame=FRAME):
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".jsonl":
            frame.to_json(path, orient="records", lines=True)
        case ".json":
            frame.to_json(path, orient="records")
        case ".parquet":
            frame.to_parquet(path, index=False)
        case ".gz":
            with gzip.open(path, "wt") as file:
                frame.to_csv(file, index=False)
    return str(path)


def assert_equal(one, other):
    """The same rows in the same types, bit for bit."""
    assert one.features == other.features
    assert one.with_format("arrow")[:].equals(other.with_format("arrow")[:])


def assert_as_alone(tasks, tokenizer, **options):
    """Every task has what it has alone, in whichever order they come; the data of the first order."""
    alone = {each.name: load_task_data([each], tokenizer, max_length=16, **options) for each in tasks}
    found = []
    for order in itertools.islice(itertools.permutations(tasks), 6):
        together = load_task_data(order, tokenizer, max_length=16, **options)
        found.append(together)
        for split, rows in together.items():
            assert list(rows) == [each.name for each in order if each.name in alone[each.name][split]]
            for name, tokens in rows.items():
                assert_equal(tokens, alone[name][split][name])
    return found[0]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl", "json", "parquet"])
def test_a_file_of_several_label_columns_is_read_once_and_its_texts_tokenised_once(
    tmp_path, tokenizer, opened, tokenised, suffix
):
    files = {"train": write(tmp_path / f"rows.{suffix}"), "validation": write(tmp_path / f"dev.{suffix}")}
    kinds = {"mood": MOOD, "topic": TOPIC, "score": SCORE, **({} if suffix == "parquet" else {"tags": TAGS})}
    tasks = [spec(name, files, **kind) for name, kind in kinds.items()]
    load_task_data(tasks, tokenizer, max_length=16)
    assert opened == {f"rows.{suffix}": 1, f"dev.{suffix}": 1}
    assert tokenised == WORDS * 4  # the second file has the texts of the first one, whose tokens are kept
    assert len(list((datasets.config.HF_DATASETS_CACHE / "hf_mtl" / "tokens").iterdir())) == 1
    assert_as_alone(tasks, tokenizer)


def test_texts_are_tokenised_once_without_a_cache_too(tmp_path, tokenizer, tokenised):
    tasks = [
        spec(name, {"train": write(tmp_path / "rows.csv")}, **kind) for name, kind in {"a": MOOD, "b": TOPIC}.items()
    ]
    datasets.disable_caching()
    try:
        load_task_data(tasks, tokenizer, splits=["train"])
        assert tokenised == WORDS * 4
        assert_as_alone(tasks, tokenizer, splits=["train"])
    finally:
        datasets.enable_caching()


def test_tasks_that_read_other_texts_share_the_file_and_not_the_tokens(tmp_path, tokenizer, opened, tokenised):
    files = {"train": write(tmp_path / "rows.csv")}
    tasks = [
        spec("mood", files, **MOOD),
        spec("pairs", files, text_columns=("text", "other"), **TOPIC),
        spec("apart", files, text_columns=("text", "other"), pair_encoding="separate", **TOPIC),
        spec("other", files, text_columns=("other",), **SCORE),
        spec("joint", files, text_columns=("text", "other"), pair_encoding="joint", **SCORE),
    ]
    datasets.disable_caching()
    try:
        load_task_data(tasks, tokenizer, splits=["train"])
        assert opened == {"rows.csv": 1}
        # Of "apart" each text goes alone; "joint" says what "pairs" does unless told.
        assert collections.Counter(tokenised) == dict.fromkeys(WORDS, 5 * 4)
        assert_as_alone(tasks[:3], tokenizer, splits=["train"])
        assert_as_alone(tasks[2:], tokenizer, splits=["train"])
    finally:
        datasets.enable_caching()


def test_one_task_s_text_may_be_the_label_of_another(tmp_path, tokenizer):
    frame = FRAME.assign(mood=["glad", None, "sad"] * 8)
    for suffix in ("csv", "jsonl", "parquet"):
        files = {"train": write(tmp_path / f"rows.{suffix}", frame)}
        tasks = [
            spec("film", files, text_columns=("topic",), kind="classification", label_column="text", labels=WORDS),
            spec("topic", files, **TOPIC),
            spec("mood", files, text_columns=("mood",), **TOPIC),
        ]
        assert_as_alone(tasks[:2], tokenizer, splits=["train"])
        load_task_data(tasks[:2], tokenizer, splits=["train"])  # the missing mood is no text of theirs
        with pytest.raises(InputError, match=r"task 'mood', split 'train': column 'mood' has no text in row 1"):
            load_task_data(tasks, tokenizer, splits=["train"])


def test_a_column_that_is_not_the_same_to_two_tasks_is_read_for_each(tmp_path, tokenizer):
    rows = [{"text": "a film", "both": 3 if row % 2 else "x", "lists": ["x"] if row % 2 else "y"} for row in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    frame = pd.DataFrame({"text": ["a film"] * 6, "sets": ["x", "y", None] * 2})
    lines, cells = ({"train": write(tmp_path / "rows.csv", frame)}, {"train": str(tmp_path / "rows.jsonl")})[::-1]
    one, any_number = {"kind": "classification"}, {"kind": "multi_label", "labels": ("x", "y")}
    pairs = [
        # A number is a label to one, and no text to the other.
        (
            spec("label", lines, label_column="both", labels=("3", "x"), **one),
            spec("text", lines, text_columns=("both",), label_column="text", labels=("a film", "b"), **one),
        ),
        # Where some cells are lists, others are lists of one; unless told, they are texts of JSON.
        (
            spec("label", lines, label_column="lists", labels=('["x"]', "y"), **one),
            spec("sets", lines, label_column="lists", **any_number),
        ),
        # An empty cell is no label, and a row without names.
        (
            spec("label", cells, label_column="sets", **any_number),
            spec("sets", cells, label_column="sets", label_delimiter="|", **any_number),
        ),
    ]
    sizes = []
    for tasks in pairs:
        data = assert_as_alone(tasks, tokenizer, splits=["train"], on_bad_row="skip")
        sizes.append([len(rows) for rows in data["train"].values()])
    assert sizes == [[6, 3], [6, 6], [4, 6]]


def test_a_bad_text_is_told_to_the_task_that_reads_it(tmp_path, tokenizer):
    rows = [{"text": "a film", "other": 5 if row == 2 else "a", "label": row % 2} for row in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files, kind = {"train": str(tmp_path / "rows.jsonl")}, {"kind": "classification", "labels": ("a", "b")}
    sound, bad = spec("sound", files, **kind), spec("bad", files, text_columns=("other",), **kind)
    both = spec("both", files, text_columns=("text", "other"), **kind)
    assert_as_alone([sound, both, bad], tokenizer, splits=["train"], on_bad_row="skip")
    for tasks in ([sound, bad], [bad, sound]):
        with pytest.raises(InputError, match=r"task 'bad', .*'other' holds 5 instead of text in row 2"):
            load_task_data(tasks, tokenizer, splits=["train"])


def test_rows_that_a_task_skips_are_left_out_of_its_tokens_alone(tmp_path, tokenizer, tokenised):
    frame = FRAME.assign(mood=["glad", "odd", "sad", None] * 6, topic=["film", "book", "odd"] * 8)
    frame.loc[4, "text"] = None
    files = {"train": write(tmp_path / "rows.csv", frame)}
    tasks = [spec("mood", files, **MOOD), spec("topic", files, **TOPIC)]
    data = load_task_data(tasks, tokenizer, splits=["train"], on_bad_row="skip")["train"]
    used = [row for row in range(24) if row != 4 and (row % 4 in (0, 2) or row % 3 < 2)]
    assert tokenised == [frame["text"][row] for row in used]  # those of some task
    assert [len(rows) for rows in data.values()] == [11, 15]
    assert data["mood"]["labels"][:] == [2, 0, 0, *[2, 0] * 4]
    assert_as_alone(tasks, tokenizer, splits=["train"], on_bad_row="skip")


AMBIGUOUS = {
    # The delimiter is the one whose header has the task's columns: the tasks need different ones.
    "two delimiters": ("text,a;text;b\nx,p;y;q\n", ["a;text;b", "b", "text,a"]),
    "a name with a comma": ('text,"a, really",b\n"x, y",p,q\n', ["a, really", "b"]),
    "Excel's line": ("sep=;\ntext;a, really;b\nx, y;p;q\n", ["a, really", "b"]),
}


@pytest.mark.parametrize(("content", "columns"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_the_delimiter_is_the_one_that_the_task_alone_would_find(tmp_path, tokenizer, content, columns):
    (tmp_path / "rows.csv").write_text(content)
    kind = {"kind": "classification", "labels": ("p", "q", "p;y;q", "x,p", "x")}
    files = {"train": str(tmp_path / "rows.csv")}
    tasks = [spec(f"t{number}", files, label_column=column, **kind) for number, column in enumerate(columns)]
    alone = {each.name: outcome([each], tokenizer) for each in tasks}
    sound = [each for each in tasks if alone[each.name][0]]
    assert sound
    for each in tasks:
        others = [other for other in sound if other is not each]
        for group in ([each, *others], [*others, each]):
            assert outcome(group, tokenizer, each.name) == alone[each.name]


def outcome(tasks, tokenizer, name=None):
    """Whether tasks load, and the rows or the message of one."""
    try:
        data = load_task_data(tasks, tokenizer, splits=["train"])["train"]
    except InputError as error:
        return False, str(error)
    return True, data[name or tasks[0].name].to_list()


def test_json_that_may_be_rows_or_one_table_is_read_as_for_each_task_alone(tmp_path, tokenizer):
    table = {"text": "the file", "a": "p", "data": [{"text": "x", "other": "y", "a": "p"}] * 3}
    (tmp_path / "rows.json").write_text(json.dumps(table))
    kind = {"kind": "classification", "label_column": "a", "labels": ("p", "q")}
    tasks = [
        spec("one", {"train": str(tmp_path / "rows.json")}, **kind),
        spec("pair", {"train": str(tmp_path / "rows.json")}, text_columns=("text", "other"), **kind),
    ]
    data = assert_as_alone(tasks, tokenizer, splits=["train"])
    assert {name: len(rows) for name, rows in data["train"].items()} == {"one": 1, "pair": 3}


def test_a_column_of_lists_is_one_to_all_tasks_over_the_file(tmp_path, tokenizer, opened):
    rows = [
        {"text": "x", "words": ["a", "b"], "tags": ["O", "B-X"], "topics": ["p"] if n else "p", "mood": "x"}
        for n in range(3)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {"train": str(tmp_path / "rows.jsonl")}
    tasks = [
        spec("sets", files, kind="multi_label", label_column="topics", labels=("p", "q")),
        spec(
            "ner", files, kind="token_classification", text_columns=("words",), label_column="tags", labels=("O", "B-X")
        ),
        spec("one", files, kind="classification", label_column="mood", text_columns=("text",), labels=("x", "y")),
    ]
    load_task_data(tasks[:2], tokenizer, splits=["train"])
    assert opened["rows.jsonl"] <= 3  # once for all, and a look at the first row by each
    assert_as_alone(tasks, tokenizer, splits=["train"])


def test_tasks_of_one_folder_or_saved_dataset_share_it(tmp_path, tokenizer, opened, tokenised):
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "train.csv")
    write(tmp_path / "folder" / "validation.csv")
    rows = Dataset.from_pandas(FRAME.assign(topic=[0, 1] * 12)).cast_column("topic", ClassLabel(names=["book", "film"]))
    DatasetDict(train=rows, validation=rows).save_to_disk(str(tmp_path / "saved"))
    for place in ("folder", "saved"):
        tasks = [spec(n, (), dataset=str(tmp_path / place), **kind) for n, kind in (("m", MOOD), ("t", TOPIC))]
        tokenised.clear()
        load_task_data(tasks, tokenizer)
        assert tokenised == WORDS * 4
        assert place == "saved" or opened == {"train.csv": 1, "validation.csv": 1}
        assert_as_alone(tasks, tokenizer)


@pytest.mark.parametrize("make", [lambda: FRAME, lambda: FRAME.to_dict("records"), lambda: Dataset.from_pandas(FRAME)])
def test_rows_in_memory_that_tasks_share_are_converted_and_tokenised_once(tokenizer, tokenised, monkeypatch, make):
    rows = make()
    tasks = [spec("mood", **MOOD), spec("score", **SCORE), spec("tags", **TAGS)]
    given = {each.name: {"train": rows} for each in tasks}
    datasets.disable_caching()
    try:
        load_task_data(tasks, tokenizer, splits=["train"], rows=given)
        assert tokenised == WORDS * 4
        for each in tasks:
            alone = load_task_data([each], tokenizer, splits=["train"], rows={each.name: {"train": rows}})
            together = load_task_data(tasks[::-1], tokenizer, splits=["train"], rows=given)
            assert_equal(together["train"][each.name], alone["train"][each.name])
    finally:
        datasets.enable_caching()


def test_tasks_share_the_one_table_in_memory(tmp_path):
    files = {"train": write(tmp_path / "rows.csv")}
    tasks = [spec("mood", files, **MOOD), spec("other", files, text_columns=("other",), **TOPIC)]
    reads = SharedReads(tasks)
    one, other = (read_splits(each, ("train",), reads=reads)["train"] for each in tasks)
    assert one.source is other.source
    alone = read_splits(spec("another", files, **MOOD), ("train",), reads=reads)[
        "train"
    ]  # a task that `reads` does not know
    assert alone.source is not one.source and alone.rows.to_list() == one.rows.to_list()


def test_a_report_of_tasks_reads_their_file_once(tmp_path, tokenizer, opened):
    files = {"train": write(tmp_path / "rows.csv"), "test": write(tmp_path / "test.csv")}
    tasks = [spec("mood", files, **MOOD), spec("topic", files, **TOPIC)]
    reads = SharedReads(tasks)
    told = [describe_task(each, tokenizer, 64, reads) for each in tasks]
    assert opened == {"rows.csv": 1, "test.csv": 1}
    assert told == [describe_task(each, tokenizer, 64) for each in tasks]


def test_what_other_code_than_the_packages_encodes_is_not_shared(tmp_path, tokenizer, monkeypatch, tokenised):
    class WithName(KINDS["classification"].head):
        @classmethod
        def encode(cls, spec, rows, tokenizer, max_length):
            return super().encode(spec, [(f"{spec.name} {row[0]}",) for row in rows], tokenizer, max_length)

    monkeypatch.setattr(type(KINDS["classification"]), "head", WithName)
    tasks = [spec(name, {"train": write(tmp_path / "rows.csv")}, **MOOD) for name in ("film", "book")]
    data = load_task_data(tasks, tokenizer, splits=["train"])["train"]
    assert tokenised == [f"{name} {text}" for name in ("film", "book") for text in WORDS * 4]
    assert data["film"]["input_ids"][0] != data["book"]["input_ids"][0]
