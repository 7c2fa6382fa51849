"""One reader: a table in any form and place gives the rows that are written in it, or one sentence."""

import decimal
import gzip
import io
import json
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_files import folder, task

from hf_mtl import InputError
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.inference.file_reader import read_texts
from hf_mtl.tasks.labels import read_labels
from hf_mtl.tasks.task_file import load_tasks
from hf_mtl.tasks.text_files import format_of

CSV = "text,label\nNA,1\n007,0\n"
ROWS = {"text": ["NA", "007"], "label": ["1", "0"]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows_of(split="train", **source) -> dict[str, list]:
    rows = load_rows(task(**source), split)
    return {name: rows[name][:] for name in ("text", "label")}


def predicted(path, columns=None, form=None) -> list[str]:
    return [text for (text,) in read_texts(str(path), form or format_of(str(path)), columns)]


# ---- what is read, and as what ----

READ = {
    "comma.csv": (CSV, ["NA", "007"]),
    "semicolon.csv": ("text;label\na, b;1\nc;0\n", ["a, b", "c"]),
    "tab.csv": ('text\tlabel\n"a\tb"\t1\n', ["a\tb"]),
    "bar.csv": ("text|label\na;b|1\n", ["a;b"]),
    "quoted.csv": ('"text";"label"\n"a;b";1\n', ["a;b"]),
    "comma.tsv": ("text,label\na,1\n", ["a"]),
    "quote.tsv": ('text\tlabel\n"it opens\t1\nand "goes" on\t0\n', ['"it opens', 'and "goes" on']),
    "lines.csv": ('text,label\n"one\ntwo, ""three""",1\n\n4,0\n', ['one\ntwo, "three"', "4"]),
    "header.csv": ('text,"a\nb",label\nx,1,1\n', ["x"]),
    "cr.csv": ('text,label\r"a\nb",1\rc,0\r', ["a\nb", "c"]),
    "cr.tsv": ("text\tlabel\ra\t1\rb\t0", ["a", "b"]),
    "crlf.tsv": ("text\tlabel\r\na\t1\r\n\r\nb\t0\r\n", ["a", "b"]),
    "bom.csv": (b"\xef\xbb\xbftext,label\na,1\n", ["a"]),
    "nul.csv": ("text,label\na\0b,1\n", ["a\0b"]),
    "excel.csv": (",text,,label,\n0,a,,1,\n", ["a"]),
    "NAMES.CSV": (CSV, ["NA", "007"]),
    "packed.csv.gz": (gzip.compress(CSV.encode()), ["NA", "007"]),
    "packed.csv": (gzip.compress(CSV.encode()), ["NA", "007"]),
    "plain.csv.gz": (CSV, ["NA", "007"]),
    "packed.tsv.gz": (gzip.compress(b"text\tlabel\na\t1\n"), ["a"]),
    "lines.jsonl.gz": (gzip.compress(b'{"text": "a", "label": 1}\n'), ["a"]),
    "array.json.gz": (gzip.compress(b'[{"text": "a", "label": 1}]'), ["a"]),
    "dates.jsonl": (
        '{"text": "2020-01-01", "label": 1}\n{"text": "2020-01-02", "label": 0}\n',
        ["2020-01-01", "2020-01-02"],
    ),
    "lines.json": ('{"text": "a", "label": 1}\n{"text": "b", "label": 0}', ["a", "b"]),
    "array.jsonl": ('\n [{"text": "a", "label": 1},\n{"text": "b", "label": 0} ]\n', ["a", "b"]),
    "pretty.json": (json.dumps([{"text": "a", "label": 1}] * 2, indent=1), ["a", "a"]),
    "objects.json": ('{\n "text": "a",\n "label": 1\n}\n{"text": "b", "label": 0}', ["a", "b"]),
    "columns.json": ('{"text": ["a", "b"], "label": [1, 0]}', ["a", "b"]),
    "pandas.json": ('{"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}', ["a", "b"]),
    "data.json": ('{"version": 1, "data": [{"text": "a", "label": 1}]}', ["a"]),
    "with_data.json": ('{"text": "a", "label": 1, "data": [{"x": 1}]}', ["a"]),
    "huge.jsonl": ('{"text": "a", "label": 1, "id": ' + "9" * 40 + "}", ["a"]),
    "half.jsonl": ('{"text": "a", "label": 1, "id": "\\ud800"}', ["a"]),
    "nested.jsonl": (
        '{"text": "a", "label": 1, "x": {"y": [1]}}\n{"text": "b", "label": 0, "x": {"z": 2}}',
        ["a", "b"],
    ),
    "infinite.jsonl": ('{"text": "a", "label": 1, "x": [NaN, -Infinity]}', ["a"]),
}


@pytest.mark.parametrize("name", READ)
def test_training_folders_and_prediction_read_the_same_texts(tmp_path, name):
    content, wanted = READ[name]
    folder(tmp_path / "set", **{f"train_{name}": content})
    path = str(tmp_path / "set" / f"train_{name}")
    assert rows_of(files={"train": path})["text"] == wanted
    assert rows_of(dataset=str(tmp_path / "set")) == rows_of(files={"train": path})
    assert predicted(path) == predicted(path, ["text"]) == wanted


@pytest.mark.parametrize("name", ["reviews[2024].csv", "a*.csv", "{b}.csv", "c::d.csv", "e?.csv", "%20 .csv", "ü .csv"])
def test_a_file_may_have_any_name(tmp_path, name):
    path = Path(folder(tmp_path / name.removesuffix(".csv"), **{name: CSV})) / name
    (tmp_path / "reviews2.csv").write_text("text,label\nanother,1\n")
    assert rows_of(files={"train": str(path)}) == rows_of(dataset=str(path.parent)) == ROWS
    assert predicted(path) == ROWS["text"]
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "t.parquet")
    parquet = (tmp_path / "t.parquet").rename(path.with_suffix(".parquet"))
    assert rows_of(files={"train": str(parquet)})["text"] == predicted(parquet) == ["a"]


def test_a_delimiter_that_is_not_the_usual_one_is_said(tmp_path, caplog):
    path = folder(tmp_path, **{"a.csv": "text;label\na;1\n"}) + "/a.csv"
    rows_of(files={"train": path})
    assert caplog.messages == [f"{path!r}: columns are told apart by ';', not ','"]
    caplog.clear()
    rows_of(files={"train": folder(tmp_path, **{"b.csv": CSV}) + "/b.csv"})
    assert caplog.messages == []


def test_the_delimiter_is_the_one_that_gives_the_columns_asked_for(tmp_path):
    path = Path(folder(tmp_path, **{"a.csv": "id,x;body;stars\n1,2;good;5\n"})) / "a.csv"
    assert predicted(path, ["body"]) == ["good"]
    path = Path(folder(tmp_path, **{"b.csv": "review;stars\ngood;5\n"})) / "b.csv"
    with pytest.raises(
        InputError, match="has the columns 'review', 'stars'; name one, or two for a pair, with --columns"
    ):
        predicted(path)


def test_values_of_parquet_arrive_as_they_are(tmp_path):
    table = pa.table(
        {
            "text": pa.array(["a", "b"]).dictionary_encode(),
            "label": pa.array([decimal.Decimal("1.50"), None]),
            "more": pa.array([{"k": [1]}, {"k": []}]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows = load_rows(task(files={"train": str(tmp_path / "a.parquet")}), "train")
    assert rows[:] == {
        "text": ["a", "b"],
        "label": [decimal.Decimal("1.50"), None],
        "more": [{"k": [1]}, {"k": []}],
    }


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()])
def test_texts_of_parquet_may_have_any_type_of_text(tmp_path, kind):
    schema = pa.schema({"text": kind, "label": pa.int64()})
    pq.write_table(pa.table({"text": ["ä", "b"], "label": [1, 0]}, schema=schema), tmp_path / "a.parquet")
    assert (
        rows_of(files={"train": str(tmp_path / "a.parquet")})["text"] == predicted(tmp_path / "a.parquet") == ["ä", "b"]
    )


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([1, 2.5], [1.0, 2.5]), ([1, "2.5", "n/a"], ["1", "2.5", "n/a"]), ([True, 1, None], ["true", "1", None])],
)
@pytest.mark.parametrize("far", [0, 5000])
def test_json_labels_of_mixed_types_lose_nothing(tmp_path, values, wanted, far):
    values = [values[0]] * far + values
    lines = "".join(json.dumps({"text": "a", "label": value}) + "\n" for value in values)
    path = folder(tmp_path, **{"a.jsonl": lines}) + "/a.jsonl"
    assert rows_of("test", files={"test": path})["label"] == [wanted[0]] * far + wanted


def test_a_split_may_be_several_files(tmp_path):
    files = {
        "a.csv": CSV,
        "b.csv": "label,text\n1,x\n",
        "c.jsonl": '{"text": "y", "label": 0}',
        "d.csv": "text,label\n",
    }
    content = "tasks: {t: {kind: classification, text_columns: text, labels: [bad, good], files: {train: [%s]}}}"
    folder(tmp_path, **files, **{"my.yaml": content % ", ".join(files)})
    (spec,) = load_tasks(str(tmp_path / "my.yaml"))
    rows = load_rows(spec, "train")
    assert rows["text"][:] == ["NA", "007", "x", "y"] and read_labels(spec, rows, "train").tolist() == [1, 0, 1, 0]
    folder(tmp_path, **{"b.csv": "text,stars\nx,1\n"})
    with pytest.raises(
        InputError, match=r"different columns: '.*a.csv' has 'text', 'label'; '.*b.csv' has 'text', 'stars'"
    ):
        load_rows(spec, "train")


# ---- what is refused ----

BAD = {
    "twice.csv": ("text,text\na,b\n", "the header has the column 'text' twice"),
    "nul.csv": ("text,la\0bel\na,1\n", "the header has a NUL character"),
    "wide.csv": ("text,label\na,1\nb,1,2\n", r"row 1 \(the first row is 0\) has 3 cells, the header has 2"),
    "narrow.tsv": ("text\tlabel\nb\n", "row 0 .* has 1 cells, the header has 2"),
    "open.csv": ('text,label\na,1\n"b,1\nc,0\n', "row 1 .* a quote opens and is never closed"),
    "swallows.csv": ('text,label\n"b,1\nc" d,0\n', "row 0 .* is no csv: ',' expected after '\"'"),
    "escaped.csv": ('text,label\na,1\n"so \\"so\\"",0\n', r"row 1 .* is no csv: .*; quotes inside a cell are doubled"),
    "escapes.csv": ('text,label\n"so \\", \\"so",0\n', r"row 0 .* has 3 cells, .*; quotes inside a cell are doubled"),
    "return.csv": ("text,label\na\rb,1\n", "row 0 .* is no csv: new-line character seen in unquoted field$"),
    "latin.csv": (b"text,label\na,1\nb\xe9,0\n", "row 1 .* byte 0xe9 at offset 16 of the file, 1 of its line"),
    "latin.tsv": (b"text\tl\xe9\na\t1\n", "the header is no UTF-8: byte 0xe9 at offset 6 of the file, 6 of its line"),
    "latin.jsonl": (b'{"text": "a"}\n{"text": "\xe9"}\n', "row 1 .* byte 0xe9 at offset 24 of the file, 10 "),
    "latin.json": (b'[{"text": "a"}, {"text": "\xe9"}]', "row 1 .* byte 0xe9 at offset 26 of the file"),
    "sixteen.csv": (CSV.encode("utf-16"), "begins like UTF-16 .* save the file as UTF-8"),
    "bare_sixteen.jsonl": ('{"text": "a"}'.encode("utf-16-be"), "begins like UTF-16"),
    "cut.csv.gz": (gzip.compress(CSV.encode() * 99)[:-9], "cannot be read: Compressed file ended"),
    "broken.csv.gz": (gzip.compress(CSV.encode() * 99)[:20] + b"x" * 40, "cannot be read"),
    "keys.jsonl": ('{"text": "a"}\n{"text": "a", "text": "b"}', "row 1 .* has the key 'text' twice"),
    "deep.jsonl": ('{"text": ' + "[" * 100_000, "row 0 .* is nested too deep"),
    "deep.json": ("[" * 100_000, "row 0 .* is nested too deep"),
    "digits.jsonl": ('{"text": ' + "1" * 5000 + "}", "row 0 .* Exceeds the limit"),
    "open.json": ('[{"text": "a"}', "row 1 .* goes on with neither a comma nor its end"),
    "comma.json": ('[{"text": "a"},]', "row 1 .* is no JSON: Expecting value"),
    "more.json": ('[{"text": "a"}] 3', "row 1 .* something follows the end"),
    "list.jsonl": ("[1]\n", "row 0 .* is no JSON object, found 1"),
    "null.json": ("null", "row 0 .* is no JSON object, found None"),
    "number.jsonl": ('{"text": "a", "label": 1}\n{"text": 5}', "column 'text' holds 5 instead of text in row 1"),
    "date.jsonl": ('{"text": [["2020-01-01"]], "label": [1], "x": 1}', "column 'text' holds .+'2020-01-01'.+ inst"),
    "surrogate.jsonl": ('{"text": "\\ud800", "label": 1}', "column 'text' holds half a surrogate pair, .* in row 0"),
    "empty.csv": ("text,label\na,1\n,0\n", "column 'text' has no text in row 1"),
    "empty.tsv": ("text\tlabel\n\t0\n", "column 'text' has no text in row 0"),
    "missing.jsonl": ('{"text": "a", "label": 1}\n{"label": 1}', "column 'text' has no text in row 1"),
    "columns.csv": ("body,label\na,1\n", "no column 'text'; the columns are 'body', 'label'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_training_and_prediction_refuse_the_same_with_file_and_row(tmp_path, name):
    content, reason = BAD[name]
    path = folder(tmp_path / "set", **{name: content}) + "/" + name
    for source in ({"files": {"train": path}}, {"dataset": str(tmp_path / "set")}):
        with pytest.raises(InputError, match=reason) as refusal:
            rows_of(**source)
        assert "\n" not in str(refusal.value) and "task 't'" in str(refusal.value)
    with pytest.raises(InputError, match=reason) as refusal:
        predicted(path, ["text"])
    assert str(refusal.value).startswith(f"input {path!r}")


def test_bad_texts_are_skipped_with_their_rows(tmp_path, caplog):
    lines = ['{"text": "a", "label": 1}', '{"text": 5, "label": 1}', '{"text": "\\udc00", "label": 0}', '{"label": 0}']
    path = folder(tmp_path, **{"a.jsonl": "\n".join(lines)}) + "/a.jsonl"
    assert load_rows(task(files={"train": path}), "train", "skip")["text"][:] == ["a"]
    assert "row 1: column 'text' holds 5 instead of text; row 2: column 'text' holds half a surr" in caplog.text


@pytest.mark.parametrize("kind", [pa.binary(), pa.string(), pa.large_string()])
def test_bytes_of_parquet_that_are_no_text_are_a_bad_row(tmp_path, kind):
    wide = pa.large_binary() if kind == pa.large_string() else pa.binary()
    texts = pa.array([b"\xe9", b"b"], wide)
    table = pa.table({"text": texts if kind == pa.binary() else texts.view(kind), "label": [1, 0]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert load_rows(task(files={"train": f"{tmp_path}/a.parquet"}), "train", "skip")["text"][:] == ["b"]
    with pytest.raises(InputError, match=r"column 'text' holds b'\\xe9' instead of text in row 0"):
        rows_of(files={"train": f"{tmp_path}/a.parquet"})
    with pytest.raises(InputError, match=r"column 'text' holds b'\\xe9' instead of text in row 0"):
        predicted(tmp_path / "a.parquet")


# ---- streams ----


class Endless(io.RawIOBase):
    """Bytes of a file that never ends, and how many were taken."""

    def __init__(self, start: bytes, row: bytes) -> None:
        self.start, self.row, self.taken = start, row, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        block = (self.start + self.row * (len(buffer) // len(self.row) + 1))[: len(buffer)]
        block = (
            block
            if self.taken == 0
            else (self.row * (self.taken + len(buffer)))[self.taken - len(self.start) :][: len(buffer)]
        )
        buffer[: len(block)] = block
        self.taken += len(block)
        return len(block)


@pytest.mark.parametrize(
    ("form", "start", "row"),
    [
        ("csv", b"text,label\n", b'"a ""film"", ",1\n'),
        ("tsv", b"text\tlabel\n", b"a\t1\n"),
        ("jsonl", b"", b'{"text": "a"}\n'),
        ("json", b"[", b'{"text": "a"},'),
        ("txt", b"", b"a\n"),
    ],
)
def test_standard_input_is_read_no_further_than_needed(monkeypatch, form, start, row):
    endless = Endless(start, row)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(endless)))
    texts = read_texts("-", form, None)
    for _ in range(20_000):
        next(texts)
    assert endless.taken < 20_000 * len(row) + 400_000
    texts.close()
