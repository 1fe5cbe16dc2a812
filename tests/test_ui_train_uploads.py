"""Uploaded text is kept under safe names, and bounded."""

from pathlib import Path

import pytest

from stentor.errors import DataError
from stentor.home import uploads_folder
from stentor.ui import train_uploads
from stentor.ui.train_uploads import MAX_FILE_BYTES, list_texts, safe_name, save_texts


def write_upload(folder: Path, name: str, text: str = "Some text.\n") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd.txt", "passwd.txt"),
        ("..\\..\\boot.TXT", "boot.txt"),
        ("my stories; rm -rf ~.jsonl", "my-stories-rm--rf.jsonl"),
        (".hidden.txt", "hidden.txt"),
        ("...txt", "text.txt"),
        ("<b>.parquet", "b.parquet"),
        ("résumé 日本.txt", "résumé-日本.txt"),
        ("a" * 300 + ".txt", "a" * 80 + ".txt"),
    ],
)
def test_names_of_uploads_stay_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_uploads_are_kept_under_new_names_and_found_again(tmp_path: Path) -> None:
    first = write_upload(tmp_path, "story one.txt", "one")
    assert save_texts([first], None) == ["story-one.txt"]
    assert save_texts([first], None) == ["story-one-2.txt"]
    assert list_texts() == ["story-one-2.txt", "story-one.txt"]
    assert (uploads_folder() / "story-one.txt").read_text(encoding="utf-8") == "one"


def test_what_is_no_training_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of \.txt"):
        save_texts([write_upload(tmp_path, "weights.pt")], None)
    with pytest.raises(DataError, match="0 bytes"):
        save_texts([write_upload(tmp_path, "empty.txt", "")], None)
    large = tmp_path / "large.txt"
    with large.open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)  # a hole: takes no disk
    with pytest.raises(DataError, match="at most 200 MB"):
        save_texts([str(large)], None)
    assert list_texts() == []


def test_the_folder_of_uploads_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_uploads, "MAX_FOLDER_BYTES", 25)
    save_texts([write_upload(tmp_path, "a.txt", "x" * 20)], None)
    with pytest.raises(DataError, match="has 20 bytes already"):
        save_texts([write_upload(tmp_path, "b.txt", "x" * 20)], None)
