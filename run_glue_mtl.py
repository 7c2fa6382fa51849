#!/usr/bin/env python3
"""Fine-tune one encoder on several tasks, evaluate it, predict with it, push it.

    accelerate launch run_glue_mtl.py --model_name_or_path DIR_OR_HUB_ID --output_dir out --do_train --do_eval
    accelerate launch run_glue_mtl.py demo

Arguments come from a packaged recipe or a YAML or JSON file, if one is named first, and from flags, which override it;
--help lists them. `hf-mtl train` takes the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hf_mtl import InputError
from hf_mtl.errors import CheckpointError, PushError
from hf_mtl.training.run import STOPPED, main

if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (InputError, CheckpointError, PushError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
    except KeyboardInterrupt:
        print(f"{Path(__file__).name}: {STOPPED}", file=sys.stderr)
        sys.exit(130)
