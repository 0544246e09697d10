"""Hugging Face's ConvBERT in PyTorch as a contender of benchmark_model.py, which starts this file.

transformers cannot pre-train a ConvBERT: the ELECTRA step around its two networks is written here,
as lean as the rest allows: one uniform number a sampled token, the vocabulary's logits of masked
positions alone, no metrics, and the faster of PyTorch's two AdamW. Needs torch and transformers,
and nothing of this project but benchmark_session.py.
"""

import itertools
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers import ConvBertConfig, ConvBertForMaskedLM, ConvBertModel

from scripts.benchmark_session import Session, peak_memory, rate_of_product

CLS, SEP, MASK = 101, 102, 103
DTYPES = {
    "float32": torch.float32,
    "mixed_bfloat16": torch.bfloat16,
    "mixed_float16": torch.float16,
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main():
    """Does the job that the parent sends."""
    session = Session()
    torch.set_num_threads(session.job["threads"])
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, as XLA has it; CPUs do not care
    torch.manual_seed(0)
    session.tools = {"multiply": multiply, "report": report}
    kinds = {"pretrain": Pretraining, "infer": Inference}
    session.serve(kinds[session.job["kind"]](session.job).run)


class Electra(nn.Module):
    """Generator and discriminator with shared embeddings; a batch in, the loss out."""

    def __init__(self, discriminator: dict, generator: dict, mask_prob: float, disc_weight: float):
        super().__init__()
        self.mask_prob = mask_prob
        self.disc_weight = disc_weight
        self.discriminator = ConvBertModel(ConvBertConfig(**discriminator))
        self.generator = ConvBertForMaskedLM(ConvBertConfig(**generator))
        embeddings = self.discriminator.embeddings
        self.generator.convbert.embeddings = embeddings
        self.generator.generator_lm_head.weight = embeddings.word_embeddings.weight
        hidden = self.discriminator.config.hidden_size
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(self, input_ids, input_mask, segment_ids):
        """Int64 [B, T] each → the weighted sum of both losses."""
        rest = {"attention_mask": input_mask, "token_type_ids": segment_ids}
        masked_ids, positions, weights = self.mask(input_ids, input_mask)
        targets = input_ids.gather(1, positions)
        hidden = self.generator.convbert(masked_ids, **rest).last_hidden_state
        hidden = hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[2]))
        logits = self.generator.generator_lm_head(self.generator.generator_predictions(hidden))
        logits = logits.float()  # [B, P, V]
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        loss = (losses * weights.flatten()).sum() / weights.sum()

        sampled = torch.where(weights > 0, self.sample(logits.detach()), targets)
        corrupted = input_ids.scatter(1, positions, sampled)
        verdicts = self.head(self.discriminator(corrupted, **rest).last_hidden_state)
        losses = functional.binary_cross_entropy_with_logits(
            verdicts.squeeze(2).float(), (corrupted != input_ids).float(), reduction="none"
        )
        return loss + self.disc_weight * (losses * input_mask).sum() / input_mask.sum()

    def mask(self, input_ids, input_mask):
        """Chooses positions, and hides 85 % of them.

        Returns:
            The ids with [MASK] [B, T]; positions and their weights, 1 or 0 [B, P].
        """
        count = max(1, int((self.mask_prob + 0.005) * input_ids.shape[1]))
        candidates = (input_mask > 0) & (input_ids != CLS) & (input_ids != SEP)
        noise = torch.rand(input_ids.shape, device=input_ids.device)
        positions = torch.where(candidates, noise, -1.0).topk(count).indices
        wanted = (input_mask.sum(1) * self.mask_prob).round().clamp(1, count)
        weights = (torch.arange(count, device=input_ids.device) < wanted[:, None]).float()
        hidden = (torch.rand(weights.shape, device=input_ids.device) < 0.85) & (weights > 0)
        kept = input_ids.gather(1, positions)
        return input_ids.scatter(1, positions, kept.masked_fill(hidden, MASK)), positions, weights

    def sample(self, logits):
        """One token a position: where its uniform number falls in the cumulated probabilities."""
        cumulated = logits.softmax(-1).cumsum(-1)  # [B, P, V]
        place = torch.rand((*logits.shape[:2], 1), device=logits.device) * cumulated[:, :, -1:]
        tokens = torch.searchsorted(cumulated, place).squeeze(2)
        return tokens.clamp(max=logits.shape[2] - 1)


class Pretraining:
    """The model, its optimiser, and the batches in turn."""

    def __init__(self, job: dict):
        self.dtype = DTYPES[job["precision"]]
        self.model = Electra(**job["networks"], **job["objective"]).to(DEVICE).train()
        self.parameters = list(self.model.parameters())
        self.loss_of = torch.compile(self.model) if job["compiled"] else self.model
        self.batches = itertools.cycle(load_batches(job))
        self.scaler = torch.amp.GradScaler(DEVICE.type, enabled=self.dtype == torch.float16)
        self.optimizer = None
        self.fused = True

    def run(self, count: int) -> dict:
        """Takes steps."""
        if self.optimizer is None:
            self.optimizer = self.new_optimizer()
            loss = self.step()
            self.fused = self.fused_is_faster()
            self.optimizer = self.new_optimizer()
            parameters = sum(parameter.numel() for parameter in self.parameters)
            return {"first_loss": loss, "parameters": parameters}
        for _ in range(count):
            self.step()
        return {"fused_adamw": self.fused}

    def step(self) -> float:
        """One update; the loss is waited for, as Keras's `fit` waits for its logs."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.loss_of(**next(self.batches))
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()

    def new_optimizer(self) -> torch.optim.Optimizer:
        """AdamW, with weight decay for all but vectors; at a rate that changes next to nothing."""
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        kind = {"fused": True} if self.fused else {"foreach": True}
        return torch.optim.AdamW(groups, lr=1e-6, eps=1e-6, **kind)

    def fused_is_faster(self) -> bool:
        """Times both kinds of AdamW on the gradients that are there."""
        seconds = {}
        for self.fused in (True, False):
            optimizer = self.new_optimizer()
            optimizer.step()  # makes the moments
            synchronize()
            begin = time.monotonic()
            for _ in range(3):
                optimizer.step()
            synchronize()
            seconds[self.fused] = time.monotonic() - begin
        return seconds[True] <= seconds[False]


class Inference:
    """The encoder's forward pass; the result ends in the host's memory."""

    def __init__(self, job: dict):
        self.model = ConvBertModel(ConvBertConfig(**job["networks"]["discriminator"]))
        self.model = self.model.to(DEVICE, DTYPES[job["precision"]]).eval()
        self.encode = torch.compile(self.model) if job["compiled"] else self.model
        self.batches = itertools.cycle(load_batches(job))

    def run(self, count: int) -> dict:
        """Runs batches."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        with torch.inference_mode():
            for _ in range(count):
                batch = next(self.batches)
                vectors = self.encode(
                    batch["input_ids"],
                    attention_mask=batch["input_mask"],
                    token_type_ids=batch["segment_ids"],
                ).last_hidden_state
                vectors.cpu()
        return {"parameters": parameters, "shape": list(vectors.shape)}


def load_batches(job: dict) -> list[dict]:
    """The batches that all contenders share, on the device already."""
    with np.load(job["batches"]) as arrays:
        stacked = {name: torch.from_numpy(array).long() for name, array in arrays.items()}
    count = len(stacked["input_ids"])
    return [{name: array[i].to(DEVICE) for name, array in stacked.items()} for i in range(count)]


def synchronize() -> None:
    """Waits for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def multiply(m: int, k: int, n: int, dtype: str) -> dict:
    """Measures a matrix product."""
    a, b = (
        torch.randn(shape, device=DEVICE).to(getattr(torch, dtype)) for shape in ((m, k), (k, n))
    )
    product = a @ b

    def run(count):
        for _ in range(count):
            torch.matmul(a, b, out=product)
        synchronize()

    with torch.inference_mode():
        return rate_of_product(run, m, k, n)


def report() -> dict:
    """Memory, device and versions."""
    cuda = DEVICE.type == "cuda"
    return {
        "peak_bytes": peak_memory(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "device_peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "packages": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


if __name__ == "__main__":
    main()
