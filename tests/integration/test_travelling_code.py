"""Code that a saved model brings along, and the code that its card shows, run in a process of their own."""

import subprocess
import sys

import torch
from mpnet_pairs import HEADS, encoder, inputs

from hf_mtl import MultiTaskConfig, MultiTaskModel
from hf_mtl.hub.model_card import CardFacts, model_card


def test_the_code_of_the_card_runs(tmp_path, make_model, specs, tokenizer):
    make_model().save_pretrained(tmp_path / "user" / "demo")
    tokenizer.save_pretrained(tmp_path / "user" / "demo")
    (code,) = model_card(CardFacts(repo_id="user/demo", tasks=specs)).split("```python\n")[1:]
    done = subprocess.run(
        [sys.executable, "-c", code.partition("```")[0]], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "{'reviews': {'label':" in done.stdout and "{'pairs': {'value':" in done.stdout


REMOTE = """
import sys, torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.no_grad():
    logits = model(**torch.load(sys.argv[2]), task="one").logits
assert "hf_mtl" not in sys.modules
print(type(model.encoder.encoder.layer[0].attention.attn).__name__)
torch.save(logits, sys.argv[3])
"""


def test_it_travels_with_the_model(tmp_path):
    model = MultiTaskModel(MultiTaskConfig(encoder().config, HEADS)).eval()
    model.save_pretrained(tmp_path / "model")
    batch = inputs([20, 3, 11])
    torch.save(batch, tmp_path / "batch.pt")
    paths = [str(tmp_path / name) for name in ("model", "batch.pt", "logits.pt")]
    done = subprocess.run([sys.executable, "-c", REMOTE, *paths], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == ["FusedMPNetSelfAttention"]
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "logits.pt"), model(**batch, task="one").logits)
