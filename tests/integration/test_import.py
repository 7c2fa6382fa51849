"""What `import hf_mtl` loads."""

import subprocess
import sys

SLOW = ("evaluate", "sklearn", "matplotlib", "pytorch_optimizer", "transformers.models.mpnet.modeling_mpnet")


def test_the_package_loads_nothing_slow():
    code = f"import hf_mtl, sys; print(*[name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
