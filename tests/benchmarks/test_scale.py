"""Three times the files and shards: three times the work and memory around the building itself."""

import gc
import sys
import tracemalloc

from benchmarks import scale
from benchmarks.data import in_new_process


def cost(folder, num_files):
    """The function calls and the peak of memory of each step."""
    folder.mkdir()
    scale.make_files(folder, num_files)
    calls, peaks = {}, {}

    def count(frame, event, argument):
        calls[name] += event in ("call", "c_call")

    for name, step in scale.steps(num_files, num_files // 2, num_parts=2).items():
        calls[name] = 0
        gc.collect()
        gc.disable()  # or peaks depend on when it runs, and calls on what it deletes
        tracemalloc.start()
        sys.setprofile(count)
        step(folder)
        sys.setprofile(None)
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        gc.enable()
    return calls, peaks


def costs(folder):
    """The costs for 400 and 1,200 files."""
    cost(folder / "first", 400)  # imports what is imported in functions
    return [cost(folder / str(num_files), num_files) for num_files in (400, 1200)]


def test_work_and_memory_grow_with_the_number_of_files(tmp_path):
    # In a process without the threads of other tests, whose memory would count.
    (few, few_bytes), (many, many_bytes) = in_new_process(costs, tmp_path)
    assert len(many) == 5
    for name, calls in many.items():
        assert calls < 3.3 * few[name], name
        assert many_bytes[name] < 3.3 * few_bytes[name], name


def test_the_steps_have_what_listing_gives(tmp_path):
    scale.make_files(tmp_path, 1002)
    assert scale.as_found(tmp_path, 1002) == scale.find(tmp_path)
