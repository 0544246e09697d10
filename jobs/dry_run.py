"""One step of a fine-tuning job, to see whether it would work."""

import dataclasses
import math
import os
from typing import Any

from absl import logging

from jobs.job_models import JobModels
from jobs.trials import Job


def try_one_step(job: Job, features: dict[str, dict[str, Any]]) -> None:
    """Trains a job's model on its largest batch, and predicts the longest batch of each split.

    `features` are by task and split. Nothing is written.
    """
    from model.training import memory

    config, models = job.config, JobModels(job)
    numbers = range(1, config.num_trials + 1)
    # Without training, some trials may have kept no model.
    is_possible = [config.do_train or os.path.isdir(job.trained_model(n)) for n in numbers]
    models.start(numbers[is_possible.index(True)])
    with memory.explained(config, config.max_seq_length):
        if config.do_train:
            trained = {name: features[name]["train"] for name in models.by_task}
            batches = models.training_batches(trained, job.seed(1))
            largest = max(range(len(batches)), key=lambda i: math.prod(batches.shape(i)))
            model = models.trainer(trained, len(batches))
            models.before_step(batches.shape(largest))
            one = dataclasses.replace(batches, indices=[batches.indices[largest]])
            done = model.fit(one.dataset(), shuffle=False, verbose=0)
            loss = done.history["loss"][0] / config.train_batch_size
            message = "%s: one of %s steps of a trial: %s tokens, loss %.4f"
            shape = " x ".join(map(str, batches.shape(largest)))
            logging.info(message, job.name, f"{len(batches):,}", shape, loss)
    _predict_one_batch(models, features)


def _predict_one_batch(models, features):
    from data.tasks.batching import evaluation_batches

    config = models.job.config
    for part in models.job.parts:
        predictor = models.predictors[part.task.name]
        sizes = dict.fromkeys(part.dev, config.eval_batch_size)
        sizes |= dict.fromkeys(part.tests, config.predict_batch_size)
        for split, size in sizes.items():
            batches, _ = evaluation_batches(
                features[part.task.name][split],
                size,
                not config.mask_padding,
                predictor.few_shapes,
            )
            predictor.predict_on_batch(batches[len(batches) - 1][0])  # the longest
