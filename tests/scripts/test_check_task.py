import json

import pytest

from common.errors import InputError
from scripts import check_task
from tests.support.files import as_lines, write
from tests.support.finetuning import VOCAB, save_encoder


@pytest.fixture
def run(tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")

    def run(fields, files, *more):
        for name, content in files.items():
            write(tmp_path / "finetuning_data" / "mine" / name, content)
        path = write(tmp_path / "mine.json", fields)
        check_task.main(["--data-dir", str(tmp_path), path, *more])
        return capsys.readouterr().out

    return run


def cells(output):
    """The cells of all tables: first cell → the others, of each column."""
    rows = [line.split("|")[1:-1] for line in output.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def warnings_of(output):
    return [line[2:] for line in output.splitlines() if line.startswith("- ")]


def test_texts(run):
    train = [
        "text,label",
        "the dog ran,good",
        "The  DOG ran,bad",
        "the cat sat,good",
        "",
        "the cat sat,good",
        '"!!, !!",bad',
        "caf\u00c3\u00a9 cat,bad",
        "a mat\ufffd,rare",
    ]
    dev = ["text,label", "the cat sat,bad", "on a mat,good", f"{'mat ' * 20},bad"]
    test = ["text", "on the mat", "THE CAT SAT"]
    splits = {"train": train, "dev": dev, "test": test}
    files = {f"{name}.csv": "\n".join(lines) + "\n" for name, lines in splits.items()}
    files["dev.csv"] = b"\xef\xbb\xbf" + files["dev.csv"].encode()
    fields = {"text_columns": "text", "label_column": "label"}
    output = run(fields, files, "--hparams", '{"max_seq_length": 12}')
    found = cells(output)
    assert output.startswith("# mine: at most 12 tokens; vocabulary ") and "uncased" in output
    assert [column[1:] for column in (found["train"], found["dev"], found["test"])] == [
        ["UTF-8", "1", "7"],
        ["UTF-8 with a mark", "0", "3"],
        ["ASCII", "0", "2"],
    ]
    assert found["good"] == ["3 (42.9%)", "1 (33.3%)"] and found["rare"][1] == "0 (0.0%)"
    assert found["texts cut"] == ["0 (0.0%)", "1 (33.3%)", "0 (0.0%)"]
    assert found["tokens: longest, after cutting"][1] == "12"
    assert found["examples repeated"] == ["2 (28.6%)", "0 (0.0%)", "0 (0.0%)"]
    assert found["… with different labels"] == ["2 (28.6%)", "0 (0.0%)", "0 (0.0%)"]
    assert found["also in train"] == ["–", "1 (33.3%)", "1 (50.0%)"]
    assert found["… with another label"] == ["–", "1 (33.3%)", "0 (0.0%)"]
    assert found["texts without letters or digits"][0] == "1 (16.7%)"
    assert found["texts with the character U+FFFD"][0] == "1 (16.7%)"
    assert found["texts decoded twice (Ã© for é)"][0] == "1 (16.7%)"
    told = warnings_of(output)
    assert "dev: no example has the label rare" in told
    assert any(text.startswith("dev: 1 (33.3%) texts cut") for text in told)
    assert f"\n{len(told)} warnings\n" in output


def test_every_example_with_another_label_counts():
    dev, train = {("a",): ["no", "no", "yes"]}, {("a",): ["yes"]}
    found = check_task.check_duplicates("dev", dev, train, [])
    assert found["… with another label"] == "2 (66.7%)"


def test_a_good_task_with_the_models_tokenizer(run, tmp_path):
    save_encoder(tmp_path, "m")
    rows = [f"the dog sat\t{score}" for score in (0, 1, 4.5, 5)]
    rows = [
        row.replace("dog", dog) for row, dog in zip(rows, ("dog", "cat", "mat", "a"), strict=True)
    ]
    files = {
        "train.tsv": "s\ts2\n" + "\n".join(rows) + "\n",
        "dev.tsv": "s\ts2\nbad cat\t9\nbad dog\t0.5\nbad mat\t2\na\t3\ncat\t4\n",
    }
    fields = {"text_columns": "s", "label_column": "s2", "problem_type": "regression"}
    output = run(fields, files, "--model-name", "m", "--hparams", '{"max_seq_length": 16}')
    found = cells(output)
    assert "discriminator" in output.splitlines()[0]
    assert found["0 to 1"] == ["1 (25.0%)", "1 (20.0%)"] and found["4 to 5"][1] == "2 (40.0%)"
    assert found["unknown tokens"] == ["0 (0.0%)"] * 2
    assert "dev: no example has the label 1 to 2" in warnings_of(output)


def test_entities(run):
    train = "the O\ndog B-X\nran I-X\n\nzebra O\nmat B-Y\n"
    output = run({"kind": "tagging"}, {"train.txt": train, "dev.txt": train.replace("I-X", "O")})
    found = cells(output)
    assert found["X"] == ["1 (50.0%)"] * 2 and found["Y"] == ["1 (50.0%)"] * 2
    assert found["unknown tokens"] == ["1 (20.0%)"] * 2
    assert found["train"][1:] == ["ASCII", "–", "2"]
    assert found["also in train"] == ["–", "2 (100.0%)"]
    assert found["… with another label"] == ["–", "1 (50.0%)"]
    assert any("20.0% of the tokens are unknown" in text for text in warnings_of(output))


def test_questions_and_choices(run, tmp_path):
    def question(number, text, answers):
        starts = ["the dog sat".index(answer) for answer in answers]
        answers = {"text": answers, "answer_start": starts}
        return {"id": str(number), "question": text, "context": "the dog sat", "answers": answers}

    train = [question(0, "the cat", ["dog"]), question(1, "a mat", [])]
    dev = [question(2, "the cat", ["dog", "the dog"]), question(3, "good", ["sat"])]
    files = {"train.jsonl": as_lines(train), "dev.jsonl": as_lines(dev)}
    found = cells(run({"kind": "question_answering", "unanswerable": True}, files))
    assert found["has no answer"] == ["1 (50.0%)", "0 (0.0%)"]
    assert found["also in train"][1] == "1 (50.0%)" and found["… with another label"][1][0] == "0"
    assert found["questions cut"] == found["contexts read in windows"] == ["0 (0.0%)"] * 2

    fields = {"kind": "multiple_choice", "context_column": "c", "choice_columns": ["x", "y"]}
    rows = "c\tx\ty\tl\nthe dog\tran\tsat\t1\nthe cat\tran\tsat\t0\n"
    for name in files:
        (tmp_path / "finetuning_data" / "mine" / name).unlink()
    files = {"train.tsv": rows, "dev.tsv": rows.replace("\t0\n", "\t1\n")}
    found = cells(run(fields | {"label_column": "l"}, files))
    assert found["1"] == ["1 (50.0%)", "2 (100.0%)"] and found["choices cut"][0] == "0 (0.0%)"


def test_bad_files_are_finetunes_errors(run, tmp_path):
    fields = {"text_columns": "text", "label_column": "label"}
    good = "text,label\nthe dog,a\nthe cat,b\n"
    with pytest.raises(InputError, match="no dev file"):
        run(fields, {"train.csv": good})
    with pytest.raises(InputError, match=r"dev\.csv, line 3: .*column \"text\".*got none"):
        run(fields, {"dev.csv": "text,label\nthe dog,a\n ,b\n"})
    with pytest.raises(InputError, match="no pre-trained model"):
        run(fields, {"dev.csv": good}, "--model-name", "nobody")
    with pytest.raises(InputError, match="learning_rat"):
        run(fields, {}, "--hparams", json.dumps({"learning_rat": 1}))
