"""nano's model and its two runs: pre-training with one MTP head, then three heads jointly."""

from pathlib import Path

from ...config import MiMoConfig
from ...training.data import prepare
from ...training.schedule import Piece, Schedule, Stage
from ..config import EvalConfig, PretrainConfig, SaveConfig
from ..heads import Boundary
from ..run import RunResult, run
from .corpora import DOMAINS, write_corpora
from .tokenizer import train_tokenizer

__all__ = ["HELDOUT", "build", "nano_model", "nano_runs", "prepare_corpora"]

_VOCAB = 2048
_MIXTURE = {"tables": 0.10, "logs": 0.12, "records": 0.13, "prose": 0.20, "code": 0.45}
_SEQ_LEN = 512
HELDOUT = 0.03  # of the documents


def nano_model() -> MiMoConfig:
    """The model: layers G S S S S G, windows of 33 keys, 2 of 16 experts, 4.7 M parameters."""
    return MiMoConfig(
        vocab_size=_VOCAB,
        hidden_size=160,
        hybrid_layer_pattern=(0, 1, 1, 1, 1, 0),
        moe_layer_freq=(0, 1, 1, 1, 1, 1),
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=48,
        v_head_dim=32,
        swa_num_attention_heads=8,
        swa_num_key_value_heads=2,
        swa_head_dim=48,
        swa_v_head_dim=32,
        partial_rotary_factor=1 / 3,
        swa_partial_rotary_factor=1 / 3,
        attention_value_scale=0.707,
        add_swa_attention_sink_bias=True,
        intermediate_size=512,
        n_routed_experts=16,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        window_keys=33,
        rope_theta=10_000.0,
        swa_rope_theta=10_000.0,
        num_mtp_layers=1,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )


def nano_runs(
    output: str | Path, *, tokens: int = 5_000_000, head_tokens: int = 1_000_000, seed: int = 0
) -> tuple[PretrainConfig, PretrainConfig]:
    """The configurations of both runs, reading ``output``/tokens and ``output``/tokenizer."""
    output = Path(output)
    warm, steady = tokens // 20, tokens // 2
    common = {
        "data": {name: str(output / "tokens" / name) for name in DOMAINS},
        "tokenizer": str(output / "tokenizer"),
        "dtype": "bfloat16",
        "micro_rows": 8,
        "seed": seed,
        "loads_every": 25,
        "save": SaveConfig(every=100),
    }
    trunk = PretrainConfig(
        output=str(output / "trunk"),
        model=nano_model(),
        init_std=0.02,
        eval=EvalConfig(every=250, rows=8, prompts=8, new_tokens=64),
        schedule=Schedule(
            (
                Stage(
                    name="general",
                    tokens=warm + steady,
                    seq_len=_SEQ_LEN,
                    batch=8,
                    lr=(Piece("linear", warm, 2e-3), Piece("constant", steady, 2e-3)),
                    mixture=_MIXTURE,
                    mtp_weight=0.3,
                    bias_rate=5e-3,
                    aux_coefficient=1e-4,
                ),
                Stage(
                    name="decay",
                    tokens=tokens - warm - steady,
                    seq_len=_SEQ_LEN,
                    batch=8,
                    lr=(Piece("cosine", tokens - warm - steady, 2e-4),),
                    mixture=_MIXTURE,
                    mtp_weight=0.1,
                    aux_coefficient=1e-4,
                ),
            )
        ),
        **common,
    )
    heads = PretrainConfig(
        output=str(output / "heads"),
        init=str(output / "trunk" / "final"),
        mtp_heads=3,
        mtp_only=True,
        boundary=Boundary.detached(),
        eval=EvalConfig(rows=16, prompts=16, new_tokens=96),
        schedule=Schedule(
            (
                Stage(
                    name="heads",
                    tokens=head_tokens,
                    seq_len=_SEQ_LEN,
                    batch=8,
                    lr=(
                        Piece("linear", head_tokens // 20, 2e-3),
                        Piece("cosine", head_tokens - head_tokens // 20, 1e-4),
                    ),
                    mixture=_MIXTURE,
                    mtp_weight=1.0,
                    bias_rate=0.0,
                    aux_coefficient=0.0,
                ),
            )
        ),
        **common,
    )
    return trunk, heads


def build(
    output: str | Path,
    *,
    tokens: int = 5_000_000,
    head_tokens: int = 1_000_000,
    seed: int = 0,
    progress: bool = False,
) -> RunResult:
    """Everything from text to the model in ``output``/heads/final; continues where it stopped."""
    prepare_corpora(output, seed=seed)
    trunk, heads = nano_runs(output, tokens=tokens, head_tokens=head_tokens, seed=seed)
    result = run(trunk, progress=progress)
    return run(heads, progress=progress) if result.status == "finished" else result


def prepare_corpora(output: str | Path, *, seed: int = 0) -> None:
    """``output``/text, /tokenizer and /tokens/DOMAIN/{train, heldout}, unless they are there."""
    output = Path(output)
    if not (output / "tokens" / "done").exists():
        files = write_corpora(output / "text", seed=seed)
        tokenizer = train_tokenizer(files.values(), output / "tokenizer", vocab_size=_VOCAB)
        for name, file in files.items():
            prepare(
                [file],
                output / "tokens" / name,
                encode=tokenizer.encode,
                vocab_size=_VOCAB,
                end_id=0,
                heldout=HELDOUT,
            )
        (output / "tokens" / "done").touch()
