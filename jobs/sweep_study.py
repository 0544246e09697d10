"""The state of a sweep: an Optuna study in an SQLite file, from which a killed sweep goes on."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

from common.errors import InputError
from common.files import WriteError, write_errors_named
from jobs import sweep_space, trials
from jobs.sweep_space import Space
from jobs.trials import Job

FILE = "sweep.db"
NOTE = "note"  # an attribute of Optuna's trials: why there is no score


def open_study(directory: str, job: Job, identity: dict[str, Any], startup: int) -> Any:
    """The `optuna.Study` in a sweep's directory, a new one if there is none.

    Pruning begins after `startup` finished settings.

    Raises:
        InputError: the sweep there is of another `job` or `identity`; the message lists the
            differences.
        WriteError: the file cannot be written.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = os.path.join(os.path.abspath(directory), FILE)
    with write_errors_named(path, optuna.exceptions.StorageInternalError):
        os.makedirs(directory, exist_ok=True)
        study = optuna.create_study(
            study_name="sweep",
            storage=f"sqlite:///{path}",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=startup),
            load_if_exists=True,
        )
        settings = {part.task.name: job.settings(part) for part in job.parts}
        known = study.user_attrs | {}
        if "settings" not in known:
            study.set_user_attr("identity", identity)
            study.set_user_attr("settings", settings)  # last: if it is there, both are
            return study
    changed = [
        f"another `{name}`" for name in identity if identity[name] != known["identity"][name]
    ]
    for part in job.parts:
        before = known["settings"].get(part.task.name, {})
        found = trials.differences(job, part, {"settings": before, "metrics": True})
        changed += found.values()
    if changed:
        raise InputError(
            f"{path} has a sweep with other settings: {'; '.join(dict.fromkeys(changed))}. Give "
            "this sweep another --run-name, or the same settings as that one"
        )
    return study


def pending(study: Any, space: Space, sampler: str, seed: int, most: int) -> Iterator[Any]:
    """Yields the Optuna trials to compute, until `most` have ended in this and earlier processes.

    Trials of a process that was killed come again, with the same number and settings. Each sample
    depends only on the seed, its number and the results so far, so a sweep that was killed draws
    what it would have drawn. `sampler` is "grid" or "tpe".
    """
    import optuna
    from optuna.trial import TrialState

    if sampler == "grid":
        for settings in sweep_space.grid(space):
            study.enqueue_trial(sweep_space.as_params(settings), skip_if_exists=True)
    while True:
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        if len(ended) >= most:
            return
        study.sampler = optuna.samplers.TPESampler(seed=hash((seed, len(ended))) % 2**32)
        interrupted = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if interrupted:
            yield optuna.trial.Trial(study, interrupted[0]._trial_id)
        else:
            yield study.ask()


def compute(study: Any, trial: Any, job: Job, score: Callable[[Job], float]) -> None:
    """Computes the score of a trial, by calling `score` with its job, and tells the study.

    A setting that cannot be trained, for instance because its loss is not finite or its batches do
    not fit into the memory, counts as pruned, with the error as its note.

    Raises:
        WriteError: nothing can be written; the trial can be computed again.
    """
    import optuna
    from optuna.trial import TrialState

    known = study.trials[trial.number].intermediate_values

    def watch(seed_number: int, evaluations: list[dict[str, float]]) -> None:
        # Only the training with the first seed is pruned.
        if seed_number > 1 or len(evaluations) in known:
            return
        trial.report(evaluations[-1]["score"], len(evaluations))
        is_over = evaluations[-1]["epoch"] >= job.config.num_train_epochs
        if not is_over and trial.should_prune():
            raise optuna.TrialPruned(f"below the median at epoch {evaluations[-1]['epoch']:g}")

    try:
        value = score(dataclasses.replace(job, watch=watch))
        if not math.isfinite(value):
            raise InputError("the score is not a number")
    except WriteError:
        raise
    except (optuna.TrialPruned, InputError) as error:
        trial.set_user_attr(NOTE, str(error))
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, value)
