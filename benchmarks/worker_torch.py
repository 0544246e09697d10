"""Hugging Face's ConvBERT, or ELECTRA, in PyTorch as a worker of the benchmarks.

transformers cannot pre-train them, so the step around the two networks is written here, as lean as
possible: one uniform number per sampled token, logits only of masked positions, no metrics, no loss
scaling, and PyTorch's fused AdamW.
"""

import itertools
import pickle
from pathlib import Path

import torch
import transformers
from torch import nn
from torch.nn import functional

from benchmarks.session import Session

CLS, SEP, MASK = 101, 102, 103
NAMES = {"input_mask": "attention_mask", "segment_ids": "token_type_ids"}  # ours: transformers'
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main():
    """Does the job that the parent sends."""
    session = Session(report, make_product)
    torch.set_num_threads(session.job["threads"])
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, as in XLA; no effect on CPUs
    torch.manual_seed(0)
    (train if session.job["kind"] in ("pretrain", "finetune") else infer)(session)


class Electra(nn.Module):
    """Generator and discriminator with shared embeddings: from a batch to the loss."""

    def __init__(self, job: dict):
        super().__init__()
        self.job = {name: job[name] for name in ("mask_prob", "max_predictions", "disc_weight")}
        self.discriminator = make_network("AutoModel", job["network"])
        self.generator = make_network("AutoModelForMaskedLM", job["generator"])
        embeddings = self.discriminator.embeddings
        self.generator.base_model.embeddings = embeddings
        self.generator.generator_lm_head.weight = embeddings.word_embeddings.weight
        hidden = self.discriminator.config.hidden_size
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(self, input_ids, attention_mask, token_type_ids):
        """Int64 [B, T] each → the weighted sum of both losses."""
        rest = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        masked_ids, positions, weights = self.mask(input_ids, attention_mask)
        targets = input_ids.gather(1, positions)
        hidden = self.generator.base_model(masked_ids, **rest).last_hidden_state
        hidden = hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[2]))
        logits = self.generator.generator_lm_head(self.generator.generator_predictions(hidden))
        logits = logits.float()  # [B, P, V]
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        loss = (losses * weights.flatten()).sum() / weights.sum()

        sampled = torch.where(weights > 0, self.sample(logits.detach()), targets)
        corrupted = input_ids.scatter(1, positions, sampled)
        replaced = self.head(self.discriminator(corrupted, **rest).last_hidden_state)
        losses = functional.binary_cross_entropy_with_logits(
            replaced.squeeze(2).float(), (corrupted != input_ids).float(), reduction="none"
        )
        detection_loss = (losses * attention_mask).sum() / attention_mask.sum()
        return loss + self.job["disc_weight"] * detection_loss

    def mask(self, input_ids, attention_mask):
        """Ids with [MASK] at 85 % of the positions [B, T]; positions, weights 1 or 0 [B, P]."""
        count = self.job["max_predictions"]
        candidates = (attention_mask > 0) & (input_ids != CLS) & (input_ids != SEP)
        noise = torch.rand(input_ids.shape, device=input_ids.device)
        positions = torch.where(candidates, noise, -1.0).topk(count).indices
        expected = (attention_mask.sum(1) * self.job["mask_prob"]).round().clamp(1, count)
        weights = (torch.arange(count, device=input_ids.device) < expected[:, None]).float()
        hidden = (torch.rand(weights.shape, device=input_ids.device) < 0.85) & (weights > 0)
        kept = input_ids.gather(1, positions)
        return input_ids.scatter(1, positions, kept.masked_fill(hidden, MASK)), positions, weights

    def sample(self, logits):
        """One token per position, where a uniform number falls in the running sum."""
        sums = logits.softmax(-1).cumsum(-1)  # [B, P, V]
        uniform = torch.rand((*logits.shape[:2], 1), device=logits.device) * sums[:, :, -1:]
        return torch.searchsorted(sums, uniform).squeeze(2).clamp(max=logits.shape[2] - 1)


def train(session: Session) -> None:
    """Takes steps of pre-training, or of fine-tuning with Hugging Face's head for the task."""
    job = session.job
    is_pretraining = job["kind"] == "pretrain"
    make_model = Electra if is_pretraining else make_task_model
    model = make_model(job).to(DEVICE).train()
    batches, parameters = load_batches(session, model), list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-6, eps=1e-6, fused=True)
    compute, dtype = torch.compile(model) if job["compiled"] else model, dtype_of(job["precision"])

    def run(count):
        for batch in itertools.islice(batches, count):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
                output = compute(**batch)
            loss = output if is_pretraining else output.loss
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            value = loss.item()  # waits for the step, as Keras's `fit` does for its logs
        if is_pretraining:
            session.facts.setdefault("first_loss", value)

    session.serve(run)


def infer(session: Session) -> None:
    """Runs forward passes of the encoder or a task's model; outputs are copied to the host."""
    job = session.job
    model = make_task_model(job).to(DEVICE, dtype_of(job["precision"])).eval()
    batches = load_batches(session, model)
    compute = torch.compile(model) if job["compiled"] else model

    def run(count):
        with torch.inference_mode():
            for batch in itertools.islice(batches, count):
                for output in compute(**batch).to_tuple():
                    output.cpu()

    session.serve(run)


def make_task_model(job: dict) -> nn.Module:
    """The model that the job names, with random weights."""
    return make_network(job["architecture"], job["network"])


def make_network(architecture: str, fields: dict) -> nn.Module:
    """A model of a transformers class, or of the class that an Auto class picks; random weights."""
    config = transformers.AutoConfig.for_model(**fields)
    kind = getattr(transformers, architecture)
    return kind.from_config(config) if architecture.startswith("Auto") else kind(config)


def load_batches(session: Session, model: nn.Module):
    """The job's batches on the device, repeated without end; also records facts about them."""
    batches = []
    for arrays in pickle.loads(Path(session.job["batches"]).read_bytes()):
        batch = {NAMES.get(name, name): torch.from_numpy(a) for name, a in arrays.items()}
        batch = {name: t if t.is_floating_point() else t.long() for name, t in batch.items()}
        batches.append({name: tensor.to(DEVICE) for name, tensor in batch.items()})
    lengths = [batch["input_ids"].shape[-1] for batch in batches]
    session.facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    session.facts["tokens_per_row"] = sum(lengths) / len(lengths)
    return itertools.cycle(batches)


def dtype_of(precision: str) -> torch.dtype:
    """PyTorch's name for a precision, such as "mixed_bfloat16"."""
    return getattr(torch, precision.removeprefix("mixed_"))


def make_product(m: int, k: int, n: int, dtype: str):
    """A function that computes a matrix product; see `Session`."""
    a, b = (torch.randn(s, device=DEVICE).to(dtype_of(dtype)) for s in ((m, k), (k, n)))

    def multiply():
        return (a @ b)[0, 0].item()

    return multiply


def report() -> dict:
    """Versions, device and its peak memory."""
    cuda = DEVICE.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "device_peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


if __name__ == "__main__":
    main()
