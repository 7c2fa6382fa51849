"""Many rows take memory by the row only for what a training needs of each: a label, a length, a place in the order."""

import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from hf_mtl import MultiTaskTrainer, TaskSpec, load_task_data

BYTES = 32  # a row: its label and its place take 8 each, its length 4
OF_SOME_ROWS = 40  # while it is read which rows of a table are a task's


@pytest.mark.slow
@pytest.mark.parametrize("label", ["name", "number", "every second name"])
def test_two_hundred_thousand_rows_train_in_few_bytes_each(tokenizer, make_model, make_arguments, tmp_path, label):
    def most(num_rows):
        """The most bytes that are held while so many rows are loaded and trained on."""
        cells = [("a", "b")[row % 2] if label == "name" else row / num_rows for row in range(num_rows)]
        if label == "every second name":
            cells = [("a", "b")[row // 2 % 2] if row % 2 else None for row in range(num_rows)]
        texts = [f"the film {row} is dull" for row in range(num_rows)]
        path = tmp_path / f"{num_rows}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": cells}), path, row_group_size=50_000)
        del cells, texts
        what = {"kind": "classification", "labels": ("a", "b")}
        if label == "number":
            what = {"kind": "regression", "label_range": (0, 1)}
        if label == "every second name":
            what["missing_label"] = "skip"
        task = TaskSpec(name="t", text_columns=("text",), files={"train": str(path)}, **what)
        tracemalloc.start()
        try:
            data = load_task_data([task], tokenizer, splits=("train",))
            args = make_arguments(max_steps=3, train_metric_rows=0, eval_strategy="no", save_strategy="no")
            trainer = MultiTaskTrainer(make_model([task]), args, [task], data["train"], processing_class=tokenizer)
            trainer.train()
            assert len(trainer.train_dataset) == num_rows // (2 if label == "every second name" else 1)
            return tracemalloc.get_traced_memory()[1] + pyarrow.total_allocated_bytes()
        finally:
            tracemalloc.stop()

    most(1000)  # what is imported and kept at the first time
    bound = OF_SOME_ROWS if label == "every second name" else BYTES
    assert (most(200_000) - most(100_000)) / 100_000 <= bound
