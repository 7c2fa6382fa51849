"""The page that goes from a csv to a published model does so, command by command."""

import json
import re
import shlex

from hub_server import ROOT, run, serve

PAGE = (ROOT / "docs" / "from_csv.md").read_text(encoding="utf-8")
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"  # of the page; here, the small one that the package makes


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


def test_the_page_from_a_csv_to_a_published_model(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    folder = tmp_path / "work"
    folder.mkdir()
    (python,), (drafted,) = blocks("python"), blocks("yaml")
    commands = [shlex.split(block.replace("\\\n", " ")) for block in blocks("bash")]
    assert [command[1] for command in commands] == ["init", "tasks", "train", "predict", "push"]
    with serve(tmp_path / "hub", home) as environment:
        assert run(["-c", python], environment, folder) == (0, "")
        told = {}
        for command in commands:
            words = [word.replace(ENCODER, "embedded:demo") for word in command[1:]]
            if words[0] == "train":
                words += ["--use_cpu", "--save_strategy", "no", "--eval_strategy", "no", "--disable_tqdm", "true"]
                words += ["--learning_rate", "3e-3"]  # that encoder is not trained yet
            code, told[words[0]] = run(["-m", "hf_mtl.cli", *words], environment, folder)
            assert code == 0, told[words[0]]
        assert (folder / "tasks.yaml").read_text(encoding="utf-8") == drafted
        assert "department: classification, billing, delivery, repair" in told["tasks"]
        assert re.search(r"^refund +accuracy +\S+ +\S+ +\S+ times", told["train"], flags=re.M)
        assert {line.split()[0] for line in told["predict"].splitlines()} >= {"department", "urgency", "refund"}
        scores = json.loads((folder / "tickets" / "all_results.json").read_text())
        assert scores["eval_department_accuracy"] > 0.8  # a third by chance
        found = "from hf_mtl import MultiTaskModel as M; print(*M.from_pretrained('user/tickets').heads)"
        code, said = run(["-c", found], environment, folder)
        assert (code, said.splitlines()[0]) == (0, "department urgency refund")
