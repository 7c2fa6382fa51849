"""A tokenizer that was saved with a teacher and loaded again has the rules of the one that it came from."""

import pytest
from small_tokenizers import MAKERS

from hf_mtl.pretrained import load_tokenizer
from hf_mtl.training.teacher_checks import _first_difference, _rules


@pytest.mark.parametrize("family", MAKERS)
def test_saving_and_loading_changes_no_rule(family, tmp_path):
    MAKERS[family]().save_pretrained(tmp_path / "encoder")
    student = load_tokenizer(tmp_path / "encoder")
    student("the plot is dull", truncation=True, max_length=5, padding="max_length")
    student.save_pretrained(tmp_path / "teacher")
    teacher = load_tokenizer(tmp_path / "teacher")
    assert _first_difference(_rules(teacher), _rules(student)) is None
    student.add_tokens(["Ashfordshire"])
    place, of_teacher, of_student = _first_difference(_rules(teacher), _rules(student))
    assert place == "number of added_tokens" and of_teacher + 1 == of_student


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2]}}, None),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ("a.b[1]", 2, 3)),
        ({"a": 1}, {"a": 1, "b": None, "c": 2}, ("c", None, 2)),
        ({"a": {"b": 1}}, {"a": None}, ("a", {"b": 1}, None)),
        ({"vocab": {"x": 0}}, {"vocab": {"y": 0}}, ("vocab.x", 0, None)),
        ([1, [2]], [1, [2, 3]], ("number of [1]", 1, 2)),
    ],
)
def test_the_innermost_place_that_differs_is_named_with_both_values(one, other, wanted):
    assert _first_difference(one, other) == wanted
