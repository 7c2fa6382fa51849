"""A file of text in any encoding gives its rows; bytes that do not fit are told with byte, row and a way out."""

import csv
import gzip
import json
import sys
from io import BytesIO, TextIOWrapper
from types import SimpleNamespace

import datasets
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from table_files import folder, task

from hf_mtl import InputError
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.inference.file_reader import read_texts
from hf_mtl.tasks.task_file import load_tasks
from hf_mtl.tasks.text_files import format_of

FRAME = pd.DataFrame({"text": ["café au lait", "naïve", "10 £"], "label": ["good", "bad", "good"]})
JAPANESE = pd.DataFrame({"text": ["表示、ソ", "能登"], "label": ["good", "bad"]})
CYRILLIC = pd.DataFrame({"text": ["хорошо", "плохо"], "label": ["good", "bad"]})


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def read(path, encoding=None) -> list[str]:
    """The texts of a file, as training and prediction read them alike."""
    rows = load_rows(task(files={"train": str(path)}, encoding=encoding), "train")["text"][:]
    assert [text for (text,) in read_texts(str(path), format_of(str(path)), ["text"], encoding)] == rows
    return rows


@pytest.mark.parametrize(
    ("encoding", "frame"),
    [
        ("cp1252", FRAME),
        ("windows-1252", FRAME),
        ("latin-1", FRAME),
        ("ISO-8859-15", FRAME),
        ("cp437", FRAME),
        ("cp037", FRAME),
        ("utf-8", FRAME),
        ("utf-8-sig", FRAME),
        ("utf-16", FRAME),
        ("utf-16-le", FRAME),
        ("utf-16-be", FRAME),
        ("utf-32", FRAME),
        ("utf-16", JAPANESE),
        ("shift_jis", JAPANESE),
        ("euc-jp", JAPANESE),
        ("iso2022_jp", JAPANESE),
        ("gb18030", JAPANESE),
        ("koi8-r", CYRILLIC),
        ("cp1251", CYRILLIC),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl", "tsv"])
def test_a_file_is_read_in_its_encoding(tmp_path, encoding, frame, suffix):
    path = tmp_path / f"rows.{suffix}"
    match suffix:
        case "csv" | "csv.gz":
            frame.to_csv(path, index=False, encoding=encoding)
        case "tsv":
            frame.to_csv(path, index=False, encoding=encoding, sep="\t", quoting=csv.QUOTE_NONE)
        case "jsonl":
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in frame.to_dict("records")]
            path.write_text("".join(lines), encoding=encoding)
    assert read(path, encoding) == frame["text"].tolist()


def test_utf_8_may_have_a_byte_order_mark_or_not(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        FRAME.to_csv(tmp_path / "rows.csv", index=False, encoding=encoding)
        for named in (None, "utf-8", "utf-8-sig", "UTF8"):
            assert read(tmp_path / "rows.csv", named) == FRAME["text"].tolist()


@pytest.mark.parametrize("mark", [b"", b"\xff\xfe", b"\xfe\xff"])
def test_utf_16_is_read_by_its_mark_or_its_zeros(tmp_path, mark):
    codec = "utf-16-be" if mark == b"\xfe\xff" else "utf-16-le"
    (tmp_path / "rows.csv").write_bytes(mark + FRAME.to_csv(index=False).encode(codec))
    for encoding in ("utf-16", codec):
        assert read(tmp_path / "rows.csv", encoding) == FRAME["text"].tolist()
    (tmp_path / "rows.csv").write_bytes(FRAME.to_csv(index=False).encode("utf-16-be"))
    assert read(tmp_path / "rows.csv", "utf-16") == FRAME["text"].tolist()


# ---- what does not fit ----


def refusal(path, encoding=None) -> str:
    with pytest.raises(InputError) as error:
        read(path, encoding)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    with pytest.raises(InputError) as other:
        list(read_texts(str(path), format_of(str(path)), ["text"], encoding))
    assert str(other.value).split(": ", 1)[1] in str(error.value)
    return str(error.value)


def test_a_file_of_another_encoding_is_told_with_the_one_that_reads_it(tmp_path):
    FRAME.to_csv(tmp_path / "rows.csv", index=False, encoding="cp1252")
    told = refusal(tmp_path / "rows.csv")
    assert "row 0 (the first row is 0) is no UTF-8: byte 0xe9 at offset 14 of the file, 3 of its line; " in told
    assert told.endswith("save the file as UTF-8, or name its encoding; in encoding: cp1252 it is 'café au lait,go'")
    assert read(tmp_path / "rows.csv", "cp1252") == FRAME["text"].tolist()


def test_a_text_that_is_no_cp1252_either_gets_no_proposal(tmp_path):
    JAPANESE.to_csv(tmp_path / "rows.csv", index=False, encoding="shift_jis")
    assert refusal(tmp_path / "rows.csv").endswith("save the file as UTF-8, or name its encoding")


def test_utf_8_that_is_damaged_is_not_taken_for_cp1252(tmp_path):
    (tmp_path / "rows.csv").write_bytes("text,label\ncafé and th\udce9,good\n".encode(errors="surrogateescape"))
    assert refusal(tmp_path / "rows.csv").endswith(
        "byte 0xe9 at offset 23 of the file, 12 of its line; save the file as UTF-8, or name its encoding"
    )


@pytest.mark.parametrize(
    ("written", "named", "told"),
    [
        (
            "utf-16",
            None,
            "begins like UTF-16 or a binary file, wanted UTF-8 text; .*; .* fit encoding: utf-16",
        ),
        ("utf-16-be", None, "begins like UTF-16 .* fit encoding: utf-16-be"),
        ("utf-32", None, "begins like UTF-32 .* fit encoding: utf-32"),
        ("utf-16", "cp1252", "begins like UTF-16 .*, wanted cp1252 text; .* fit encoding: utf-16"),
        ("utf-8-sig", "cp1252", "begins like UTF-8, wanted cp1252 text; .* fit encoding: utf-8"),
        ("utf-8-sig", "utf-16", "begins like UTF-8, wanted UTF-16-LE text"),
        ("utf-16-be", "utf-16-le", "begins like UTF-16 .* fit encoding: utf-16-be"),
        ("utf-8", "utf-16", "begins like no UTF-16-LE, in which"),
        (
            "utf-8",
            "ascii",
            r"row 0 .* is no ascii: byte 0xc3 at offset 14 .*, 3 of .* encoding: utf-8 it is 'café",
        ),
    ],
)
def test_a_file_that_is_not_in_the_encoding_that_is_named_is_told(tmp_path, written, named, told):
    FRAME.to_csv(tmp_path / "rows.csv", index=False, encoding=written)
    with pytest.raises(InputError, match=told):
        read(tmp_path / "rows.csv", named)
    refusal(tmp_path / "rows.csv", named)


CODECS = [
    "cp1252",
    "cp1253",
    "shift_jis",
    "gbk",
    "big5",
    "euc-kr",
    "utf-16-le",
    "utf-16-be",
    "utf-32-le",
    "ascii",
    "utf-8",
]


@settings(
    deadline=None, max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    codec=st.sampled_from(CODECS),
    before=st.text("ab ", max_size=9),
    bad=st.binary(min_size=1, max_size=5),
    row=st.integers(0, 3),
    form=st.sampled_from(["csv", "jsonl"]),
)
@example(codec="utf-16-le", before="a", bad=b"\x00\xd8", row=1, form="csv")
@example(codec="cp1252", before="a", bad=b"\x81", row=2, form="jsonl")
@example(codec="shift_jis", before="a", bad=b"\x81 ", row=2, form="csv")
def test_the_byte_that_is_told_is_the_first_that_python_refuses(tmp_path_factory, codec, before, bad, row, form):
    path = tmp_path_factory.mktemp("set") / f"rows.{form}"
    start = {"csv": "text,label\n" + "fine,good\n" * row, "jsonl": '{"text": "fine"}\n' * row}[form]
    head, tail = {"csv": ("", ",good\n"), "jsonl": ('{"text": "', '"}\n')}[form]
    raw = (start + head + before).encode(codec) + bad + tail.encode(codec)
    path.write_bytes(raw)
    try:
        raw.decode(codec)
        return
    except UnicodeDecodeError as error:
        place = error.start
    with pytest.raises(InputError) as told:
        list(read_texts(str(path), form, ["text"], codec))
    if "is no csv" in str(told.value) or "is no JSON" in str(told.value):
        return  # what the damage made of it comes first
    assert f"byte 0x{raw[place]:02x} at offset {place} of the file" in str(told.value)
    assert f"row {row} (the first row is 0)" in str(told.value)


def test_text_is_read_as_a_stream_in_every_encoding(monkeypatch):
    class Counted(BytesIO):
        def readinto(self, buffer):
            self.taken = self.tell()
            return super().readinto(buffer)

    for codec in ("cp1252", "utf-16-le", "shift_jis"):
        content = Counted(("text,label\n" + "some text,good\n" * 100_000).encode(codec))
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=content))
        rows = read_texts("-", "csv", None, codec)
        assert next(rows) == ("some text",)
        assert content.tell() < 300_000
        rows.close()


# ---- the name of an encoding ----


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cp1522", "cp1252"),
        ("uft-8", "utf-8"),
        ("latn-1", "latin-1"),
        ("windows1252", "windows-1252"),
        ("base64", None),
        ("rot13", None),
        ("idna", None),
        ("", None),
        ("\0", None),
        (8, None),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(name, near):
    with pytest.raises(InputError, match=r"task 't': encoding is .*, which Python knows no text encoding by") as told:
        task(encoding=name)
    assert near is None or f"(did you mean {near!r}?)" in str(told.value)


def test_a_task_file_names_an_encoding(tmp_path):
    row = "kind: classification, text_columns: text, labels: [bad, good], files: {train: rows.csv}"
    content = "defaults: {encoding: cp1252}\ntasks: {t: {%s}, u: {%s, encoding: null}}"
    folder(tmp_path, **{"my.yaml": content % (row, row)})
    FRAME.to_csv(tmp_path / "rows.csv", index=False, encoding="cp1252")
    named, not_named = load_tasks(str(tmp_path / "my.yaml"))
    assert load_rows(named, "train")["text"][:] == FRAME["text"].tolist()
    with pytest.raises(InputError, match="is no UTF-8"):
        load_rows(not_named, "train")


def test_gzip_and_a_stream_of_prediction_take_an_encoding(tmp_path, monkeypatch):
    packed = gzip.compress(FRAME.to_csv(index=False).encode("utf-16"))
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(packed)))
    assert [text for (text,) in read_texts("-", "csv", ["text"], "utf-16")] == FRAME["text"].tolist()
