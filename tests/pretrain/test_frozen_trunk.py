"""MTP heads for a model that has none: attached, trained from stored states, kept apart, loaded."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mimo_native as mn
from mimo_native.pretrain import (
    EvalConfig,
    Objective,
    PretrainConfig,
    Totals,
    Weights,
    attach_mtp,
    run,
)
from mimo_native.pretrain.state import RunState, build_model
from mimo_native.training import Mixture, Piece, Schedule, Stage, TokenFile, read_metrics
from mimo_native.training.batch import micro_batches
from mimo_native.training.data import HiddenFile, Row, TokenWriter, store_hidden
from mimo_native.training.distributed import Ranks
from mimo_native.training.forward import hidden_states, packed, trunk
from mimo_native.weights.convert import convert
from mimo_native.weights.mtp_heads import save_heads, trunk_digest

from .models import random_model


def _row(ids: np.ndarray) -> Row:
    return Row(ids, (len(ids),), "c")


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


VOCAB, USED, HIDDEN = 300, 190, 64
LLAMA = mn.MiMoConfig.from_dict(
    {
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "tie_word_embeddings": True,
        "max_position_embeddings": 512,
        "hidden_act": "silu",
    }
)


@pytest.fixture(scope="module")
def trunk_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trunk")
    random_model(LLAMA, dtype=torch.bfloat16).save_pretrained(path)
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "heldout"):
        with TokenWriter(tmp_path / "data" / part, vocab_size=VOCAB) as writer:
            for n in range(20):
                ids = torch.randint(USED, (5 + 3 * n,), generator=generator)
                writer.add(ids.numpy(), text_bytes=len(ids))
    return tmp_path / "data"


def config(corpus: Path, trunk_path: Path, name: str, **changes: object) -> PretrainConfig:
    tokens = 32 * 2 * 6
    stage = Stage(
        name="heads",
        tokens=tokens,
        seq_len=32,
        batch=2,
        lr=(Piece("constant", tokens, 1e-3),),
        mixture={"c": 1.0},
        mtp_weight=1.0,
    )
    fields = {
        "output": str(corpus.parent / name),
        "data": {"c": str(corpus)},
        "schedule": Schedule((stage,)),
        "init": str(trunk_path),
        "mtp_window": 17,
        "mtp_heads": 2,
        "mtp_only": True,
        "cache_hidden": True,
        "cut_vocabulary": True,
        "eval": EvalConfig(rows=1, prompts=0),
    }
    return PretrainConfig(**(fields | changes))


class TestAttach:
    def test_the_block_is_the_last_layer(self) -> None:
        """Without attention's and the embedding's part it is that layer on the hidden state."""
        model = random_model(LLAMA)
        attach_mtp(model, window_keys=17)
        block, last = model.model.mtp.layers[0], model.model.layers[-1]
        assert model.config.num_mtp_layers == 1
        assert block.self_attn.config == model.config.mtp_layer()
        x = torch.randn(9, HIDDEN, dtype=torch.float64)
        batch = packed(torch.tensor([0, 9], dtype=torch.int32))
        normed = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        with mn.backends.use("reference"):
            got = block(torch.zeros_like(x), x, batch)[0]
            want = model.model.norm(last(normed, batch)[0])
        torch.testing.assert_close(got, want)

    def test_nothing_is_shared_with_the_trunk(self) -> None:
        model = random_model(LLAMA)
        attach_mtp(model, window_keys=17)
        own = {p.data_ptr() for p in model.model.mtp.parameters()}
        assert not own & {p.data_ptr() for p in model.model.layers.parameters()}
        assert model.model.norm.weight.data_ptr() not in own

    def test_refusals(self) -> None:
        with pytest.raises(mn.UnsupportedError, match="MTP heads"):
            attach_mtp(random_model(mn.MiMoConfig.tiny()), window_keys=9)
        packed_model = random_model(LLAMA, dtype=torch.float32).pack()
        with pytest.raises(mn.UnsupportedError, match="packed"):
            attach_mtp(packed_model, window_keys=9)
        assert packed_model.config.num_mtp_layers == 0


class TestStoredStates:
    def test_they_are_those_of_each_document(self, corpus: Path) -> None:
        model, file = random_model(LLAMA, dtype=torch.float32), TokenFile(corpus / "train")
        stored = store_hidden(
            file, lambda ids, cu: hidden_states(model, ids, cu), trunk="a", width=HIDDEN, tokens=50
        )
        for d in range(file.documents):
            ids = torch.from_numpy(file.document(d))
            cu = torch.tensor([0, len(ids)], dtype=torch.int32)
            with torch.no_grad():
                want = trunk(model, ids, packed(cu)).hidden.to(torch.bfloat16)
            got = stored.states[file.offsets[d] : file.offsets[d + 1]]
            assert torch.equal(got, want), d

    def test_they_come_with_the_rows(self, corpus: Path) -> None:
        file = TokenFile(corpus / "train")
        at = torch.arange(len(file), dtype=torch.float32)[:, None].to(torch.bfloat16)
        store_hidden(
            file, lambda ids, cu: ids[..., None].to(torch.bfloat16), trunk="a", width=1, tokens=64
        )
        stored = HiddenFile(file, trunk="a")
        assert len(stored.states) == len(at)
        rows = Mixture({"c": file}, {"c": 1.0}, seq_len=23, seed=1, hidden={"c": stored})
        for n in range(30):
            row = rows.row(n)
            assert torch.equal(row.hidden[:, 0].long(), torch.from_numpy(row.ids))

    def test_another_trunk_stores_them_anew(self, corpus: Path) -> None:
        file, calls = TokenFile(corpus / "train"), []

        def states(ids: torch.Tensor, cu: torch.Tensor) -> torch.Tensor:
            calls.append(int(cu[-1]))
            return torch.zeros(1, int(cu[-1]), 4)

        store_hidden(file, states, trunk="a", width=4)
        store_hidden(file, states, trunk="a", width=4)
        assert sum(calls) == len(file)
        with pytest.raises(mn.CheckpointError, match="Store the states anew"):
            HiddenFile(file, trunk="b")
        store_hidden(file, states, trunk="b", width=4)
        assert sum(calls) == 2 * len(file)

    def test_a_cut_file_is_refused(self, corpus: Path) -> None:
        file = TokenFile(corpus / "train")
        store_hidden(file, lambda i, cu: torch.zeros(1, int(cu[-1]), 4), trunk="a", width=4)
        with (corpus / "train" / "hidden.bin").open("rb+") as stream:
            stream.truncate(100)
        with pytest.raises(mn.CheckpointError, match="100 bytes"):
            HiddenFile(file, trunk="a")

    def test_full_disk(self, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = TokenFile(corpus / "train")
        before = {p.name: p.read_bytes() for p in file.path.iterdir()}
        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(mn.CheckpointError, match="No space left"):
            store_hidden(file, lambda i, cu: torch.zeros(1, int(cu[-1]), 4), trunk="a", width=4)
        assert {p.name: p.read_bytes() for p in file.path.iterdir()} == before


class TestTraining:
    def test_stored_states_train_what_the_trunk_would(self, corpus: Path) -> None:
        """Rows that begin where documents do: the same loss and gradients without the trunk."""
        model = random_model(LLAMA, dtype=torch.float32)
        attach_mtp(model, window_keys=17)
        model.requires_grad_(False).model.mtp.requires_grad_(True)
        file = TokenFile(corpus / "train")
        ids = file.document(7)
        [batch] = micro_batches([_row(ids)], micro_rows=1, vocab_size=VOCAB)
        with torch.no_grad():
            states = trunk(model, batch.ids, packed(batch.cu_seqlens)).hidden
        grads, losses = [], []
        for given in (batch, replace(batch, hidden=states)):
            objective = Objective(model, mtp_only=True)
            model.zero_grad()
            out = objective(given, Totals.of(Totals.count([batch], 1)), Weights(1.0, 0.0))
            out.loss.backward()
            losses.append(out.mtp)
            grads.append([p.grad.clone() for p in model.model.mtp.parameters()])
        assert torch.equal(*losses)
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))

    @pytest.mark.parametrize("distill", [0, 3])
    def test_cut_vocabulary_is_a_softmax_over_it(
        self, corpus: Path, trunk_path: Path, distill: int
    ) -> None:
        """Of the text's tokens, or of the trunk's distribution for that place over the most
        frequent tokens: loss and gradients are those of the dense formula."""
        file = TokenFile(corpus / "train")
        ids = file.document(7)
        words = torch.from_numpy(np.unique(ids))
        if distill:
            one = config(corpus, trunk_path, "x", vocabulary=40, distill=3, mtp_heads=1)
            words = RunState(one, Ranks(), {"c": file}).objective.vocabulary
            counts = np.bincount(file.tokens, minlength=VOCAB)
            assert len(words) == 40
            assert bool((words.diff() > 0).all())
            assert counts[words].min() >= np.delete(counts, words).max()

        model = random_model(LLAMA)
        attach_mtp(model, window_keys=17)
        model.requires_grad_(False).model.mtp.requires_grad_(True)
        [batch] = micro_batches([_row(ids)], micro_rows=1, vocab_size=VOCAB)
        objective = Objective(model, mtp_only=True, vocabulary=words, distill=distill)
        with mn.backends.use("reference"):
            got = objective(batch, Totals(1, (1,), 1), Weights(1.0, 0.0))
            got.loss.backward()
            grads = [p.grad.clone() for p in model.model.mtp.parameters()]
            model.zero_grad()
            hidden = trunk(model, batch.ids, packed(batch.cu_seqlens)).hidden
            u = model.mtp(0, batch.ids[None, 1:-1], hidden[None, :-2]).hidden[0]
            normed = model.model.norm(hidden[1:-1])
        weight = model.head.weight[words]
        logp = (u @ weight.T).log_softmax(-1)
        if distill:
            top = (normed @ weight.T).topk(3, dim=-1)
            want = -(top.values.softmax(-1) * logp.gather(1, top.indices)).sum()
        else:
            targets = torch.searchsorted(words, batch.ids[2:])
            want = -logp.gather(1, targets[:, None]).sum()
        want.backward()
        torch.testing.assert_close(got.mtp[0], want.detach())
        for mine, parameter in zip(grads, model.model.mtp.parameters(), strict=True):
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"vocabulary": 40},
            {"vocabulary": 2, "distill": 3},
            {"vocabulary": 40, "distill": 3, "cut_vocabulary": False},
            {"distill": -1},
        ],
        ids=str,
    )
    def test_what_does_not_go_together_is_refused(
        self, corpus: Path, trunk_path: Path, wrong: dict[str, object]
    ) -> None:
        with pytest.raises(mn.ShapeError, match=r"PretrainConfig: (vocabulary|distill)"):
            config(corpus, trunk_path, "x", **wrong)

    def test_only_heads_change(self, corpus: Path, trunk_path: Path) -> None:
        whole = config(corpus, trunk_path, "whole")
        assert run(whole).status == "finished"
        steps = read_metrics(whole.output, "step")
        assert "loss" not in steps[0]
        assert len(steps[0]["mtp"]) == 2
        trained = mn.MiMoForCausalLM.from_pretrained(
            Path(whole.output) / "final", dtype=torch.float32
        ).state_dict()
        for name, tensor in (
            mn.MiMoForCausalLM.from_pretrained(trunk_path, dtype=torch.float32).state_dict().items()
        ):
            assert torch.equal(trained[name], tensor), name
        names = [name for name in trained if name.startswith("model.mtp.layers.1.")]
        assert any(
            not torch.equal(trained[n], trained[n.replace("layers.1", "layers.0")]) for n in names
        )

    @pytest.mark.parametrize("name", ["cache_hidden", "cut_vocabulary"])
    def test_a_trained_trunk_is_refused(self, corpus: Path, trunk_path: Path, name: str) -> None:
        off = {"cache_hidden": False, "cut_vocabulary": False, "mtp_only": False}
        with pytest.raises(mn.ShapeError, match=f"PretrainConfig: {name}"):
            config(corpus, trunk_path, "x", **(off | {name: True}))


@pytest.fixture(scope="module")
def model(trunk_path: Path) -> mn.MiMoForCausalLM:
    """The trunk with one head of its own."""
    model = mn.MiMoForCausalLM.from_pretrained(trunk_path).unpack()
    attach_mtp(model, window_keys=17)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.model.mtp.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(False)


class TestHeadsApart:
    @pytest.mark.parametrize(
        ("format", "bound"), [(None, 0.0), ("int8_row", 0.05), ("int8_32", 0.05)]
    )
    def test_they_come_back(
        self, model: mn.MiMoForCausalLM, trunk_path: Path, tmp_path: Path, format: str | None,
        bound: float,
    ) -> None:  # fmt: skip
        save_heads(model, tmp_path / "heads", format=format)
        loaded = mn.MiMoForCausalLM.from_pretrained(trunk_path, mtp=tmp_path / "heads")
        assert loaded.config == model.config
        ids = torch.arange(1, 13)[None]
        hidden = loaded(ids).hidden
        got, want = loaded.mtp(0, ids, hidden).logits, model.mtp(0, ids, hidden).logits
        assert float((got - want).abs().max()) <= bound * float(want.abs().max())

    def test_full_disk(
        self, model: mn.MiMoForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_heads(model, tmp_path)
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(mn.CheckpointError, match="No space left"):
            save_heads(model, tmp_path, format="int8_32")
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

    def test_speculation_with_them_changes_no_token(
        self, model: mn.MiMoForCausalLM, trunk_path: Path, tmp_path: Path
    ) -> None:
        save_heads(model, tmp_path / "heads")
        sampling = mn.Sampling(temperature=1.0, seed=3, max_tokens=24, ignore_eos=True)
        plain = mn.generate(
            mn.MiMoForCausalLM.from_pretrained(trunk_path), [[1, 2, 3]], sampling=sampling
        )
        loaded = mn.MiMoForCausalLM.from_pretrained(trunk_path, mtp=tmp_path / "heads")
        drafted = mn.generate(loaded, [[1, 2, 3]], sampling=sampling, speculative="chain")
        assert drafted[0].token_ids == plain[0].token_ids
        assert drafted[0].stats.accept_length > 0

    def test_another_trunk_is_refused(self, model: mn.MiMoForCausalLM, tmp_path: Path) -> None:
        save_heads(model, tmp_path / "heads")
        random_model(LLAMA, dtype=torch.bfloat16, seed=7).save_pretrained(tmp_path / "other")
        with pytest.raises(mn.CheckpointError, match="trained on another model"):
            mn.MiMoForCausalLM.from_pretrained(tmp_path / "other", mtp=tmp_path / "heads")

    def test_a_model_with_heads_is_refused(self, model: mn.MiMoForCausalLM, tmp_path: Path) -> None:
        save_heads(model, tmp_path / "heads")
        model.save_pretrained(tmp_path / "whole")
        with pytest.raises(mn.CheckpointError, match="heads of its own"):
            mn.MiMoForCausalLM.from_pretrained(tmp_path / "whole", mtp=tmp_path / "heads")

    @pytest.mark.parametrize("key", ["version", "config", "format"])
    def test_a_damaged_index_is_named(
        self, model: mn.MiMoForCausalLM, trunk_path: Path, tmp_path: Path, key: str
    ) -> None:
        save_heads(model, tmp_path / "heads")
        file = tmp_path / "heads" / "mtp.json"
        index = json.loads(file.read_text())
        del index[key]
        file.write_text(json.dumps(index))
        with pytest.raises(mn.CheckpointError):
            mn.MiMoForCausalLM.from_pretrained(trunk_path, mtp=tmp_path / "heads")

    def test_the_digest_is_that_of_any_dtype(self, trunk_path: Path) -> None:
        digests = {
            trunk_digest(
                mn.MiMoForCausalLM.from_pretrained(trunk_path, dtype=dtype).named_parameters()
            )
            for dtype in (torch.bfloat16, torch.float32)
        }
        assert len(digests) == 1

    def test_a_finished_run_gives_heads(
        self, corpus: Path, trunk_path: Path, tmp_path: Path
    ) -> None:
        joint = config(corpus, trunk_path, "run")
        run(joint)
        again = replace(joint, init=str(Path(joint.output) / "final"), mtp_window=None)
        save_heads(build_model(again), tmp_path / "heads")
        loaded = mn.MiMoForCausalLM.from_pretrained(trunk_path, mtp=tmp_path / "heads")
        assert loaded.config.num_mtp_layers == 2

    def test_converted_with_them_it_is_one_model(
        self, model: mn.MiMoForCausalLM, trunk_path: Path, tmp_path: Path
    ) -> None:
        save_heads(model, tmp_path / "heads")
        convert(
            trunk_path, tmp_path / "one", weight_format={"mtp": "stored"}, mtp=tmp_path / "heads"
        )
        one = mn.MiMoForCausalLM.from_pretrained(tmp_path / "one")
        two = mn.MiMoForCausalLM.from_pretrained(trunk_path, mtp=tmp_path / "heads")
        ids = torch.arange(1, 13)[None]
        hidden = two(ids).hidden
        assert torch.equal(one(ids).hidden, hidden)
        assert torch.equal(one.mtp(0, ids, hidden).logits, two.mtp(0, ids, hidden).logits)
        with pytest.raises(mn.UnsupportedError, match="before it is packed"):
            mn.MiMoForCausalLM.from_pretrained(tmp_path / "one", mtp=tmp_path / "heads")
