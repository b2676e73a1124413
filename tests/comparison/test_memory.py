import pytest

from fednnunet.comparison.memory import Memory
from fednnunet.errors import FednnUNetError

SETTINGS = {"datasets": ["Dataset001_A"], "--rounds": 5, "--server_lr": None}


def test_what_is_done_is_known_when_it_is_opened_again(tmp_path):
    folder = tmp_path / "new" / "out"
    memory = Memory.open(folder, SETTINGS, overwrite=False)
    memory.add("train", ["--rounds", "5"], 2.0, done=False)
    assert not memory.is_done("train", ["--rounds", "5"])
    memory = Memory.open(folder, SETTINGS, overwrite=False)
    memory.add("train", ["--rounds", "5"], 3.0, done=True)
    memory = Memory.open(folder, SETTINGS, overwrite=False)
    assert memory.is_done("train", ["--rounds", "5"])
    assert not memory.is_done("train", ["--rounds", "6"])
    assert not memory.is_done("plan", [])
    assert memory.jobs["train"].seconds == 5.0  # of both attempts


def test_other_flags_are_refused_until_overwrite_begins_anew(tmp_path):
    Memory.open(tmp_path, SETTINGS, overwrite=False).add("train", [], 1.0, done=True)
    (tmp_path / "results").mkdir()
    with pytest.raises(FednnUNetError, match=r"was started with --rounds 5, not 6: give the same flags, .*--overwrite"):
        Memory.open(tmp_path, SETTINGS | {"--rounds": 6}, overwrite=False)
    with pytest.raises(FednnUNetError, match=r"started with datasets Dataset001_A, not Dataset002_B"):
        Memory.open(tmp_path, SETTINGS | {"datasets": ["Dataset002_B"]}, overwrite=False)
    assert Memory.open(tmp_path, SETTINGS | {"--rounds": 6}, overwrite=True).jobs == {}
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path, overwrite):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FednnUNetError, match="is not empty and contains no comparison"):
        Memory.open(tmp_path, SETTINGS, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_memory_is_told(tmp_path):
    (tmp_path / "state.json").write_text('{"settings": ')
    with pytest.raises(FednnUNetError, match=r"cannot be read .*: start over with --overwrite"):
        Memory.open(tmp_path, SETTINGS, overwrite=False)


def test_overwriting_follows_no_links(tmp_path):
    users = tmp_path / "users"
    users.mkdir()
    (users / "scan").write_text("scan")
    out = tmp_path / "out"
    Memory.open(out, SETTINGS, overwrite=False)
    (out / "raw").mkdir()
    (out / "raw" / "imagesTr").symlink_to(users)
    (out / "link").symlink_to(users)
    Memory.open(out, SETTINGS, overwrite=True)
    assert (users / "scan").read_text() == "scan"
