"""Hugging Face's ConvBERT in PyTorch: a contender of model.py and tasks.py.

transformers cannot pre-train a ConvBERT: the ELECTRA step around its two networks is written here,
as lean as the rest allows: one uniform number a sampled token, the vocabulary's logits of masked
positions alone, no metrics, and the faster of PyTorch's two AdamW. Needs torch and transformers,
and nothing of this project but session.py.
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers import ConvBertConfig, ConvBertForMaskedLM, ConvBertModel

from benchmarks.session import Session, peak_memory, rate_of_product

CLS, SEP, MASK = 101, 102, 103
DTYPES = {
    "float32": torch.float32,
    "mixed_bfloat16": torch.bfloat16,
    "mixed_float16": torch.float16,
}
# What arrays of a task's features are called as arguments of transformers' models.
TARGETS = {
    "targets": "labels",
    "targets.start_logits": "start_positions",
    "targets.end_logits": "end_positions",
}
IGNORED = -100  # the target of padding
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main():
    """Does the job that the parent sends."""
    session = Session()
    torch.set_num_threads(session.job["threads"])
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, as XLA has it; CPUs do not care
    torch.manual_seed(0)
    session.tools = {"multiply": multiply, "report": report}
    kinds = {"pretrain": pretrain, "infer": infer, "finetune": finetune, "predict": predict}
    session.serve(kinds[session.job["kind"]](session))


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


class Training:
    """A model, its optimizer, and the batches in turn.

    Args:
        model: in training mode.
        next_loss: the loss of the next batch.
        precision: as the parent names it.
    """

    def __init__(
        self, model: nn.Module, next_loss: Callable[[], torch.Tensor], precision: str = "float32"
    ):
        self.dtype = DTYPES[precision]
        self.next_loss = next_loss
        self.parameters = list(model.parameters())
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
            loss = self.next_loss()
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


def pretrain(session: Session) -> Callable[[int], dict]:
    """Steps of Electra, on the batches that all contenders share."""
    job = session.job
    model = Electra(**job["networks"], **job["objective"]).to(DEVICE).train()
    loss_of = torch.compile(model) if job["compiled"] else model
    batches = itertools.cycle(load_batches(job))
    return Training(model, lambda: loss_of(**next(batches)), job["precision"]).run


def finetune(session: Session) -> Callable[[int], dict]:
    """Steps of a model with a head; the examples come in ever other random orders."""
    examples, model = TaskExamples(session.job), with_head(session.job).train()
    batches = examples.shuffled_batches()
    session.tools["report"] = lambda: report() | examples.fields(model)
    return Training(model, lambda: model(**next(batches)).loss).run


def predict(session: Session) -> Callable[[int], dict]:
    """A model's outputs for the examples in the file's order."""
    examples, model = TaskExamples(session.job), with_head(session.job).eval()
    session.tools["report"] = lambda: report() | examples.fields(model)

    def run(count):
        order = np.arange(len(examples))
        with torch.inference_mode():
            for batch in itertools.islice(examples.batches(order, with_targets=False), count):
                for output in model(**batch).to_tuple():
                    output.cpu()
        return {}

    return run


def with_head(job: dict) -> nn.Module:
    """The encoder with Hugging Face's head for the task."""
    config = ConvBertConfig(**job["networks"]["with_head"])
    return getattr(transformers, job["architecture"])(config).to(DEVICE)


class TaskExamples:
    """The examples that all contenders share, in batches padded to their longest."""

    def __init__(self, job: dict):
        self.batch_size = job["batch_size"]
        with np.load(job["features"]) as saved:
            arrays = dict(saved)
        num_tokens, bounds = len(arrays["input_ids"]), arrays["row_splits"][1:-1]
        self.rows_per_example = int(arrays["rows_per_example"])
        self.of_tokens = {
            "input_ids": arrays["input_ids"],
            "token_type_ids": arrays["segment_ids"],
            "attention_mask": np.ones(num_tokens, np.int64),
        }
        self.of_examples = {}
        for name in TARGETS.keys() & arrays.keys():
            array = arrays[name]
            place = self.of_tokens if len(array) == num_tokens else self.of_examples
            place[TARGETS[name]] = array
        self.of_tokens = {
            name: [torch.from_numpy(row).long() for row in np.split(array, bounds)]
            for name, array in self.of_tokens.items()
        }
        self.of_examples = {
            name: torch.from_numpy(array if array.dtype == np.float32 else array.astype(np.int64))
            for name, array in self.of_examples.items()
        }
        self.lengths = []

    def __len__(self) -> int:
        return len(self.of_tokens["input_ids"]) // self.rows_per_example

    def shuffled_batches(self) -> Iterator[dict]:
        """A first batch, and then the examples in one random order after the other."""
        random = np.random.default_rng(0)
        yield next(self.batches(random.permutation(len(self))))
        while True:
            yield from self.batches(random.permutation(len(self)))

    def batches(self, order: np.ndarray, with_targets: bool = True) -> Iterator[dict]:
        """Arguments of the model for the examples in this order."""
        targets = set(TARGETS.values())
        shape = (-1, self.rows_per_example) if self.rows_per_example > 1 else (-1,)
        for indices in np.split(order, range(self.batch_size, len(order), self.batch_size)):
            rows = indices[:, None] * self.rows_per_example + np.arange(self.rows_per_example)
            batch = {}
            for name, values in self.of_tokens.items():
                padding = IGNORED if name in targets else 0
                padded = nn.utils.rnn.pad_sequence(
                    [values[row] for row in rows.flat], batch_first=True, padding_value=padding
                )
                batch[name] = padded.reshape(*shape, padded.shape[1])
            batch |= {name: array[indices] for name, array in self.of_examples.items()}
            self.lengths.append(batch["input_ids"].shape[-1])
            yield {
                name: tensor.to(DEVICE)
                for name, tensor in batch.items()
                if with_targets or name not in targets
            }

    def fields(self, model: nn.Module) -> dict:
        """How large the model is, and how long rows were, padding included."""
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "tokens_a_row": sum(self.lengths) / len(self.lengths),
        }


def infer(session: Session) -> Callable[[int], dict]:
    """The encoder's forward pass; the result ends in the host's memory."""
    job = session.job
    model = ConvBertModel(ConvBertConfig(**job["networks"]["discriminator"]))
    model = model.to(DEVICE, DTYPES[job["precision"]]).eval()
    encode = torch.compile(model) if job["compiled"] else model
    batches = itertools.cycle(load_batches(job))
    parameters = sum(parameter.numel() for parameter in model.parameters())

    def run(count):
        with torch.inference_mode():
            for _ in range(count):
                batch = next(batches)
                vectors = encode(
                    batch["input_ids"],
                    attention_mask=batch["input_mask"],
                    token_type_ids=batch["segment_ids"],
                ).last_hidden_state
                vectors.cpu()
        return {"parameters": parameters, "shape": list(vectors.shape)}

    return run


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
