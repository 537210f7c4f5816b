"""A tiny checkpoint with random weights, and a folder to write jobs in."""

from __future__ import annotations

import json
import string

CHARACTERS = string.ascii_letters + string.digits + " .,:;!?$-\n"


def save_tiny(folder, block_size=128, seed=1, **more):
    """Save a model of 2 layers with a small context, in characters; return its folder."""
    from gptkit.checkpoints.save import save_checkpoint
    from gptkit.model.config import GPTConfig
    from gptkit.model.gpt import GPT
    from gptkit.plugin_host import registry

    tokenizer = registry().find("tokenizer", "char").value.train([CHARACTERS])
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, **more}
    config = GPTConfig(vocab_size=tokenizer.vocab_size, block_size=block_size, **sizes)
    model = GPT(config)
    model.init_weights(seed=seed)
    save_checkpoint(
        folder,
        config=config,
        tensors=model.state_dict(),
        tokenizer=tokenizer,
        bos_id=None,
        eos_ids=(),
        sampling=[{"temperature": 0.5}],
    )
    return folder


class Workshop:
    """Writes a job and its rows into a folder, which is the working directory."""

    def __init__(self, folder, model):
        self.folder, self.model = folder, model

    def rows(self, rows, name="in.jsonl"):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (self.folder / name).write_text("".join(line + "\n" for line in lines))
        return self.folder / name

    def job(self, text="", rows=None, **changes):
        """Write job.yaml: a small job, in which keys are replaced or, by None, left out."""
        keys = {
            "model": str(self.model),
            "template": '{item: "Q: $text\\nA: $answer", output: answer, separator: "\\n\\n"}',
            "inputs": "in.jsonl",
            "outputs": "out.jsonl",
            "sampling": "{seed: 7, chain: [temperature: 0.9]}",
            "stop": "{max_new_tokens: 12}",
            **changes,
        }
        lines = [f"{key}: {value}" for key, value in keys.items() if value is not None]
        path = self.folder / "job.yaml"
        path.write_text("\n".join(lines) + "\n" + text)
        if rows is not None:
            self.rows(rows)
        return path

    def out(self, name="out.jsonl"):
        return [json.loads(line) for line in (self.folder / name).read_bytes().splitlines()]
