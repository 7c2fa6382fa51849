"""When which encoder layers train: a pure function of training progress."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from ..errors import InputError

_STAGE = re.compile(r"(\d+(?:\.\d+)?):(\d+|all)")
_WANTED = "wanted 'none' or START:LAYERS pairs like '0:0,1:3,2:6' (epochs) or '0:0,500:3,1000:all steps'"


@dataclass(frozen=True, kw_only=True)
class UnfreezeSchedule:
    """From which epoch or step on how many of the last encoder layers train.

    Args:
        stages: (start, layers) with rising starts, the first at 0. `layers` counts from the top of the encoder;
            None stands for everything, embeddings and relative-position tables included.
        unit: "epochs" or "steps", the unit of `start`; both count from 0.

    Raises:
        InputError: when the stages do not start at 0, do not rise, or the unit is neither.
    """

    stages: tuple[tuple[float, int | None], ...]
    unit: str = "epochs"

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.stages]
        if not starts or starts[0] != 0 or any(b <= a for a, b in pairwise(starts)):
            raise InputError(f"unfreeze_schedule {self}: the first stage must start at 0 and every next one later")
        if self.unit not in ("epochs", "steps"):
            raise InputError(f"unfreeze_schedule unit {self.unit!r}: wanted 'epochs' or 'steps'")

    @classmethod
    def parse(cls, text: str) -> UnfreezeSchedule | None:
        """The schedule that `text` describes, e.g. "0:0,1:3,2:6" or "0:0,500:3 steps"; None for "none"."""
        if not isinstance(text, str):
            raise InputError(f"unfreeze_schedule {text!r} cannot be read; {_WANTED}")
        if text.strip().lower() == "none":
            return None
        words = text.split()
        unit = words.pop() if len(words) > 1 and words[-1] in ("epochs", "steps") else "epochs"
        matches = [_STAGE.fullmatch(stage.strip()) for stage in " ".join(words).split(",")]
        if not all(matches):
            raise InputError(f"unfreeze_schedule {text!r} cannot be read; {_WANTED}")
        stages = tuple((float(m[1]), None if m[2] == "all" else int(m[2])) for m in matches if m)
        return cls(stages=stages, unit=unit)

    def layers(self, progress: float) -> int | None:
        """Number of last layers that train at `progress` (in `unit`); None when everything does."""
        return [layers for start, layers in self.stages if start <= progress][-1]

    def check(self, num_layers: int) -> None:
        """Raise InputError when a stage wants more layers than the encoder's `num_layers`."""
        for start, layers in self.stages:
            if layers is not None and layers > num_layers:
                raise InputError(
                    f"unfreeze_schedule: the stage at {start:g} unfreezes {layers} layers and the encoder has "
                    f"{num_layers}; wanted at most {num_layers}, 'all', or --unfreeze_schedule none"
                )

    def __str__(self) -> str:
        # Decimal writes a start in full where a float's own text would be 1e+06.
        stages = ",".join(
            f"{Decimal(repr(start)).normalize():f}:{'all' if n is None else n}" for start, n in self.stages
        )
        return stages if self.unit == "epochs" else f"{stages} {self.unit}"
