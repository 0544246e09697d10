import types

from configure_finetuning import FinetuningConfig
from data.tasks import glue
from jobs.trials import Job, TaskData, describe_progress


def test_time_left_is_estimated_by_finished_trials_or_by_the_amount_of_text():
    jobs = []
    for name, length in (("cola", 100), ("sst", 200)):
        examples = types.SimpleNamespace(num_characters=length)
        config = FinetuningConfig(num_trials=2, num_train_epochs=1.0)
        part = TaskData(glue.TASKS[name], examples, {"dev": examples}, {})
        jobs.append(Job((part,), config, None, ""))
    finished = {"cola": {}, "sst": {}}
    assert describe_progress(jobs, finished) == "trial 1 of 4"
    finished["cola"][1] = {"cola": {"seconds": 600.0}}
    # Another 10 minutes, and twice 20 for twice the text.
    assert describe_progress(jobs, finished) == "trial 2 of 4, about 50 min left"
    finished["sst"][2] = {"sst": {"seconds": 7200.0}}
    assert describe_progress(jobs, finished) == "trial 3 of 4, about 2 h 10 min left"
