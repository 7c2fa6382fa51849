"""Teachers of the demo's tasks, and trainers that they teach."""

import torch

from hf_mtl import MultiTaskTrainer


def save_teacher(model, tokenizer, folder, *, seed=5):
    """A saved model, as far from a fresh one as a trained one; gives the folder's name."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in (each for each in model.parameters() if each.numel() > 1):  # similarity's own two rule it
            parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def one_by_one(model, task, rows, tokenizer):
    """What a model says of each row, alone and without padding. *Shape:* (rows, ...)"""
    names = [name for name in rows.column_names if name in (*tokenizer.model_input_names, "sequence_lengths")]
    answers = []
    model.eval()
    with torch.no_grad():
        for row in rows:
            lengths = row.get("sequence_lengths")
            ids = {name: torch.tensor(row[name]) for name in names if name != "sequence_lengths"}
            if lengths is None:
                ids = {name: value[None] for name, value in ids.items()}
            else:  # a sequence after the other, padded by hand
                ids = {
                    name: torch.nn.utils.rnn.pad_sequence(value.split(lengths), batch_first=True)
                    for name, value in ids.items()
                }
                longest = torch.arange(max(lengths))
                ids["attention_mask"] = (longest < torch.tensor(lengths)[:, None]).long()
            answers.append(model(task=task, **ids).logits)
    return torch.cat(answers)


class Remembering(MultiTaskTrainer):
    """Keeps the labels of every micro-batch as the loss gets them, with the step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.targets, real = [], self.step.run

        def run(batches, **options):
            labels = {task: batch["labels"].clone() for task, batch in batches.items()}
            self.targets.append((self.state.global_step, labels))
            assert all("teacher" not in batch for batch in batches.values())
            return real(batches, **options)

        self.step.run = run
