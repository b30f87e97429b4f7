"""Make a tiny Llama with random weights and a real tokenizer, on the spot, without a download.

The model's answers are noise and its size is a few megabytes; what matters is that the server
around it does everything a real one does. The tokenizer is a byte-level BPE trained on Python's
own standard library, so text and code are cut into realistic token counts. Runs inside the
environment that make_env.py makes (it needs torch, transformers and tokenizers).
"""

from __future__ import annotations

import json
import sys
import sysconfig
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

SEED = 20_240
VOCABULARY_COUNT = 16_000
TRAINING_FILE_COUNT = 400
POSITION_COUNT = 131_072
START, END = "<|start|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    + START
    + "{{ message['role'] }}\n{{ message['content'] }}"
    + END
    + "\n{% endfor %}{% if add_generation_prompt %}"
    + START
    + "assistant\n{% endif %}"
)


def make_tokenizer(directory: Path) -> int:
    """Train the tokenizer, write its files and return its vocabulary's size."""
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:TRAINING_FILE_COUNT]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_COUNT,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(source) for source in sources], trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START,
        "eos_token": END,
        "model_max_length": POSITION_COUNT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    return int(tokenizer.get_vocab_size())


def make_model(directory: Path, vocabulary_count: int) -> None:
    """Write the weights (seeded, so that every machine has the same noise) and the config."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=max(vocabulary_count, VOCABULARY_COUNT),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITION_COUNT,
        bos_token_id=0,
        eos_token_id=1,
        dtype="bfloat16",
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=1)
    model.save_pretrained(directory)


def main() -> int:
    """Make both in the directory given as the only argument."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    make_model(directory, make_tokenizer(directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
