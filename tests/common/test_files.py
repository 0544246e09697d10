"""Directories that appear whole or not at all."""

import pytest

from common import files


def test_a_directory_takes_its_name(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a").write_text("1")
    files.replace_directory(tmp_path / "new", tmp_path / "name")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "b").write_text("2")
    files.replace_directory(tmp_path / "new", tmp_path / "name")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]
    assert [path.name for path in (tmp_path / "name").iterdir()] == ["b"]


def test_a_directory_is_made_whole_or_not_at_all(tmp_path):
    (tmp_path / "name.tmp").mkdir()
    (tmp_path / "name.tmp" / "of_a_killed_process").touch()
    with files.atomic_directory(f"{tmp_path}/name/") as temporary:
        (tmp_path / temporary / "a").write_text("1")
        assert not (tmp_path / "name").exists()
    with pytest.raises(ValueError, match="halfway"), files.atomic_directory(tmp_path / "name") as t:
        (tmp_path / t / "b").write_text("2")
        raise ValueError("halfway")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]
    assert [path.name for path in (tmp_path / "name").iterdir()] == ["a"]


def test_an_error_before_the_renaming_leaves_the_old_one(tmp_path, monkeypatch):
    for name in ("new", "name"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("1")

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="No space"):
        files.replace_directory(tmp_path / "new", tmp_path / "name")
    assert (tmp_path / "name" / "name").exists()
