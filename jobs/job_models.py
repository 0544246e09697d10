"""The models of a fine-tuning job: compiled once, with new weights for every trial."""

import functools
import gc
import json
from typing import Any

from common import console
from common.errors import InputError
from common.fields import override
from jobs.trials import Job
from model.config import MODEL_SIZES


class JobModels:
    """A model for each task of a job, all with the same encoder; the first `start` builds them.

    Tracing and compiling a model can take longer than a trial. So all trials use the same compiled
    models: each first sets their variables to what new models would draw from its seed.
    """

    def __init__(self, job: Job):
        self.job = job
        self.by_task: dict[str, Any] = {}
        self._trainer: Any = None
        self._compiled_shapes: set[tuple[int, ...]] = set()

    def start(self, trial: int) -> None:
        """Gives the models the weights and the random states that a trial starts from."""
        import keras

        if not self.by_task:
            keras.backend.clear_session()  # the models of earlier jobs
        keras.utils.set_random_seed(self.job.seed(trial))
        with self._scope():
            fresh = build_models(self.job, trial)
            if not self.by_task:
                self.by_task = fresh
                return
            for name, model in self.by_task.items():
                new = fresh.pop(name).variables
                for variable, value in zip(model.variables, new, strict=True):
                    variable.assign(value)
            if self._trainer is not None:
                self._trainer.optimizer.reset()
        gc.collect()  # frees the new models, which have circular references

    @functools.cached_property
    def num_devices(self) -> int:
        """How many devices share each batch in training."""
        from model.backends import distribution

        return distribution.count_devices(self.job.config.num_devices)

    @functools.cached_property
    def jit_compile(self) -> bool:
        """Whether XLA compiles the models, once for each shape of a batch."""
        from model.backends import distribution

        return distribution.uses_xla(self.job.config.jit_compile)

    @property
    def few_shapes(self) -> bool:
        """Whether training batches must have few shapes, and rows that can be shared equally."""
        num_parts = self.num_devices * self.job.config.gradient_accumulation_steps
        return self.jit_compile or num_parts > 1

    def _scope(self):
        from model.backends import backend

        return backend.scope(self.num_devices)

    @functools.cached_property
    def predictors(self) -> dict[str, Any]:
        """The compiled prediction function of each task."""
        from model.predictor import Predictor

        return {name: Predictor(model, self.jit_compile) for name, model in self.by_task.items()}

    def before_step(self, shape: tuple[int, ...]) -> None:
        """Logs a line if training has to compile for this shape of a batch."""
        if self.jit_compile:
            console.say_compiling(shape, self._compiled_shapes)

    def training_batches(self, features: dict[str, Any], seed: int) -> Any:
        """A trial's batches, given the features of the tasks to train on; see `batching`."""
        from data.tasks.batching import join_features, training_batches

        config = self.job.config
        return training_batches(
            join_features(features) if len(features) > 1 else next(iter(features.values())),
            config.train_batch_size,
            config.num_train_epochs,
            seed,
            pad_to_max=not config.mask_padding,
            few_shapes=self.few_shapes,
        )

    def trainer(self, features: dict[str, Any], steps: int) -> Any:
        """The compiled model whose `fit` trains all tasks on `features`, in all trials."""
        if self._trainer is None:
            with self._scope():
                self._set_losses(features)
                self._trainer = self._compile_trainer(steps)
        return self._trainer

    def _set_losses(self, features):
        from data.tasks.class_weights import class_weights

        config = self.job.config
        for name, model in self.by_task.items():
            model.label_smoothing = config.label_smoothing
            if config.class_weights:
                labels, targets = model.config.id2label, features[name].targets
                model.class_weights = class_weights(labels, targets, config.class_weights)

    def _compile_trainer(self, steps):
        from model.joint import JointModel
        from model.training.optimizer import create_optimizer

        config, (first, *others) = self.job.config, self.by_task.values()
        model = JointModel(self.by_task) if others else first
        is_wide = first.config.hidden_size >= MODEL_SIZES["base"].hidden_size
        optimizer = create_optimizer(
            config.learning_rate or (1e-4 if is_wide else 3e-4),
            num_train_steps=steps,
            num_warmup_steps=steps * config.warmup_proportion,
            weight_decay_rate=config.weight_decay_rate,
            layerwise_lr_decay=config.layerwise_lr_decay,
            num_hidden_layers=first.config.num_hidden_layers,
            dynamic_loss_scale=config.precision == "mixed_float16",
        )
        model.gradient_accumulation_steps = config.gradient_accumulation_steps
        model.set_remat(config.remat)
        model.compile(optimizer, **model.objective("sum"), jit_compile=self.jit_compile)
        return model


def build_models(job: Job, trial: int) -> dict[str, Any]:
    """A new model for each task of a job."""
    import model as library

    models: dict[str, Any] = {}
    for task in (part.task for part in job.parts):
        model_class = getattr(library, task.architecture)
        fields = task.model_fields() | {"mask_padding": job.config.mask_padding}
        options = task.model_options(job.config) | {"dtype": job.config.precision}
        if models:
            options["convbert"] = next(iter(models.values())).convbert
        # Where the weights come from:
        # 1. Without training, each task's model is the one that an earlier run trained.
        # 2. `--from-scratch` draws all weights from the trial's seed.
        # 3. Otherwise the encoder is the pre-trained one, and the head is drawn.
        if not job.config.do_train:
            directory = job.trained_model(trial, task)
            dtype = job.config.precision
            models[task.name] = load_trained(model_class, directory, dtype, task, fields)
            continue
        fields["task_specific_params"] = task.saved_options(job.config) or None
        if job.encoder.directory is None:
            models[task.name] = model_class(override(job.encoder.config, fields), **options)
        else:
            overrides = job.config.model_hparam_overrides | fields | options
            models[task.name] = model_class.from_pretrained(job.encoder.directory, **overrides)
    return models


def load_trained(model_class, directory: str, dtype: str, task, fields: dict[str, Any]):
    """A fine-tuned model; an error if it was not trained for `task`."""
    model = model_class.from_pretrained(directory, dtype)
    found, expected = (c.to_hf_dict("") for c in (model.config, override(model.config, fields)))
    for name in sorted(found):
        if found[name] != expected[name]:
            raise InputError(
                f"{directory} was trained for another task than {task.name}: `{name}` is "
                f"{json.dumps(found[name])}, expected {json.dumps(expected[name])}"
            )
    return model
