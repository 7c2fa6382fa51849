"""A comparison whose runs are short scripts: they score what a formula of seed, method and task gives."""

import sys
from pathlib import Path

SCRIPT = """
import json, os, sys, time
from pathlib import Path
arguments = json.loads(Path(sys.argv[1]).read_text())
folder, seed = Path(arguments["output_dir"]), arguments["seed"]
print("this run has the seed", seed)
print("they have a token:", os.environ.get("HF_TOKEN") == "_".join(["hf", "token", "of", "mine"]))
if (folder.parent / "fails").exists() or os.environ.get("FAILS") == str(seed):
    print("ValueError: as it was asked to", file=sys.stderr)
    sys.exit(3)
method = arguments.get("gradient_method", "pcgrad")
gain = {"sum": 0.0, "pcgrad": 0.02, "mgda": -0.01}[method] + 100 * float(arguments.get("weight_decay", 0))
noise = {1: 0.001, 2: -0.002, 3: 0.003, 4: 0.0, 5: -0.001}[seed]
base = {"reviews_accuracy": 0.8 + seed / 100, "pairs_pearson": 0.7 - seed / 50, "pairs_spearman": 0.6}
base |= {"sst2_accuracy": 0.9, "stsb_pearson": 0.85, "stsb_spearman": 0.8}
names = [name for name in base if name.startswith(arguments.get("alone", ""))]
scores = {f"eval_{name}": base[name] + gain + (noise if method == "pcgrad" else 0) for name in names}
if arguments["do_predict"]:
    scores |= {name.replace("eval_", "test_"): value - 0.1 for name, value in scores.items()}
(folder / "checkpoint-3").mkdir()
(folder / "model.safetensors").write_text("weights")
(folder / "all_results.json").write_text(json.dumps({**scores, "eval_average": 0.5, "train_runtime": 7.0}))
"""


def script_command(folder: Path) -> list[str]:
    """The command of a run that does what `SCRIPT` says."""
    script = folder / "scripted_run.py"
    script.write_text(SCRIPT)
    return [sys.executable, "-S", str(script)]


RECIPE = """
model_name_or_path: embedded:demo
task_set: demo
max_steps: 20
learning_rate: 2e-3
use_cpu: true
hub_token: hf_token_of_mine
report_to: all
"""


def same_numbers(content):
    """What compare.json says, without what depends on the hour, in one order."""
    runs = [{k: v for k, v in run.items() if k not in ("seconds", "memory")} for run in content["runs"]]
    return {**content, "runs": sorted(runs, key=lambda run: (run["arm"], run["seed"], str(run["task"])))}
