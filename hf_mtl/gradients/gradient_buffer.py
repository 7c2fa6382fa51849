"""One flat row per task over the shared parameters, filled by backward, and what of each row has content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter


class GradientBuffer:
    """One gradient vector per task. Regions that no backward wrote are neither cleared nor read.

    Args:
        num_tasks: how many rows there are.
        parameters: what the rows are laid out over; may be none.
        like: has the rows' type and device.

    Attributes:
        values: the rows. *Shape:* (K, P)
        views: for every row, its parts in the parameters' shapes.
    """

    def __init__(self, num_tasks: int, parameters: Sequence[Parameter], like: Tensor) -> None:
        self.parameters = list(parameters)
        size = sum(p.numel() for p in self.parameters)
        self.values = torch.empty(num_tasks, size, dtype=like.dtype, device=like.device)
        self.views = [self._views_of(row) for row in self.values]
        self._index = {id(p): i for i, p in enumerate(self.parameters)}
        self._written: list[set[int]] = [set() for _ in self.views]  # parameters that have their part of the row
        self._vectors: dict[int, list[Tensor]] = {}  # parameter -> which of its vectors have a gradient in some row
        self._whole: set[int] = set()  # parameters of which all may have one
        self._zeros: list[set[int]] = [set() for _ in self.views]  # parameters whose part of the row is all zero

    def _views_of(self, row: Tensor) -> list[Tensor]:
        pieces = torch.split(row, [p.numel() for p in self.parameters])
        return [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]

    def add(self, task: int, parameter: Tensor, gradient: Tensor) -> None:
        """Add to a parameter's gradient in a task's row."""
        place, filled = self._place(task, parameter)
        place.add_(gradient) if filled else place.copy_(gradient)

    def add_product(self, task: int, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Add `left @ right` to a parameter's gradient in a task's row, without a copy."""
        place, filled = self._place(task, parameter)
        place.addmm_(left, right) if filled else torch.mm(left, right, out=place)

    def add_at(self, task: int, parameter: Tensor, indices: Tensor, gradients: Tensor) -> None:
        """Add to those vectors of a parameter's gradient in a task's row. *Shapes:* (n,), (n, width)."""
        place, _ = self._place(task, parameter, indices)
        place.index_add_(0, indices, gradients)

    def _place(self, task: int, parameter: Tensor, vectors: Tensor | None = None) -> tuple[Tensor, bool]:
        """A parameter's part of a task's row, and whether there is content; from now on there is.

        Where only some `vectors` of the part get content, the others are zero, then.
        """
        i = self._index[id(parameter)]
        if vectors is None:
            self._whole.add(i)
        else:
            self._vectors.setdefault(i, []).append(vectors)
        filled = i in self._written[task]
        if vectors is not None and not filled and i not in self._zeros[task]:
            self.views[task][i].zero_()
        self._zeros[task].discard(i)
        self._written[task].add(i)
        return self.views[task][i], filled

    def clear(self, changed: int | None) -> None:
        """Begin a step: nothing has content.

        Args:
            changed: the row that somebody else may have changed meanwhile, as an optimizer that reads it may.
        """
        # Zero the vectors that the last step filled, so that the next need not zero all of their parameters.
        for row, (written, zeros) in enumerate(zip(self._written, self._zeros, strict=True)):
            if row == changed:
                zeros.clear()
            else:
                for i in written & (self._vectors.keys() - self._whole):
                    self.views[row][i].index_fill_(0, torch.cat(self._vectors[i]), 0)
                    zeros.add(i)
            written.clear()
        self._vectors.clear()
        self._whole.clear()

    def zero_unwritten(self, row: int) -> None:
        """Zero what has no content of a row."""
        for i, view in enumerate(self.views[row]):
            if i not in self._written[row]:
                view.zero_()

    def mark_dense(self) -> None:
        """From now on all vectors of every parameter may have content, as after a sum over processes."""
        self._whole.update(self._vectors)

    def column_blocks(self) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """Yield blocks of columns; of an embedding table, only the vectors that some task touched.

        Yields:
            A view of the rows, the vectors of it that are meant, and these: a copy, or without vectors the view.
            *Shapes:* (K, n), None, (K, n); or (K, all, width), (some,), (K, some, width)
        """
        known = {i: torch.cat(found) for i, found in self._vectors.items() if i not in self._whole}
        few = {i: torch.unique(found) for i, found in known.items() if 2 * len(found) < len(self.parameters[i])}
        sizes = [p.numel() for p in self.parameters]
        start = 0
        for i, vectors in sorted(few.items(), key=lambda found: found[0]):
            end = sum(sizes[:i])
            yield self.values[:, start:end], None, self.values[:, start:end]
            start = end + sizes[i]
            view = self.values[:, end:start].view(len(self.values), *self.parameters[i].shape)
            yield view, vectors, view[:, vectors]
        yield self.values[:, start:], None, self.values[:, start:]
