"""Small vocabularies for tests that should not need a download."""

import json
from functools import lru_cache
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from mimo_native.weights.gguf_file import GGUFFile

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
THINK = "<think>"


@lru_cache
def _trained() -> str:
    corpus = Path(__file__).parent.parent / "data" / "plain_english.txt"
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([corpus.read_text("utf-8")], trainer)
    backend.add_tokens([THINK])
    return backend.to_str()


def byte_level() -> tokenizers.Tokenizer:
    """Byte-level BPE of 600 tokens and one user-defined token."""
    return tokenizers.Tokenizer.from_str(_trained())


def byte_fallback() -> tokenizers.Tokenizer:
    """In the manner of SentencePiece: words begin with U+2581, unknown characters become bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdehlor", "▁h", "▁he", "ll", "▁hell", "é"]
    merges = [("▁", "h"), ("▁h", "e"), ("l", "l"), ("▁he", "ll")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    model = models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


def gguf_metadata(pre: str = "smollm", **changes: object) -> dict[str, object]:
    """The byte-level vocabulary as a GGUF file's metadata; a change to None removes a key."""
    saved = json.loads(_trained())
    vocabulary = saved["model"]["vocab"] | {t["content"]: t["id"] for t in saved["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = {**dict.fromkeys(CONTROL, 3), THINK: 4}
    metadata: dict[str, object] = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [kinds.get(token, 1) for token in tokens],
        "merges": [" ".join(pair) for pair in saved["model"]["merges"]],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "padding_token_id": 0,
        **changes,
    }
    return {f"tokenizer.ggml.{k}": value for k, value in metadata.items() if value is not None}


def gguf_file(pre: str = "smollm", **changes: object) -> GGUFFile:
    """A file with that metadata and no tensors."""
    return GGUFFile(Path("small.gguf"), gguf_metadata(pre, **changes), {})


def save(directory: Path, backend: tokenizers.Tokenizer, **files: object) -> Path:
    """A hub directory: tokenizer.json and JSON files by name, e.g. config={...}."""
    directory.mkdir(exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory
