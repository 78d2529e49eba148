from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_gym.envs.text.prompts import PromptTable, read_prompts
from rlhf_gym.errors import ConfigError, DataError


def test_a_text_file_has_one_prompt_per_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffone two\r\nüber ß\n\n".encode())
    assert read_prompts(path).prompts == ["one two", "über ß"]


def test_spaces_at_the_end_of_a_prompt_are_kept_in_the_last_line_too(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("Q: \nAnswer: \n \n\n")
    assert read_prompts(path).prompts == ["Q: ", "Answer: "]


def test_a_jsonl_file_has_prompts_and_columns(tmp_path: Path) -> None:
    path = tmp_path / "prompts.JSONL"
    path.write_text('{"answer": "7", "prompt": "3+4="}\n{"prompt": "1+1=", "answer": "2"}\n')
    table = read_prompts(str(path))
    assert (table.prompts, table.columns) == (["3+4=", "1+1="], {"answer": ["7", "2"]})
    assert len(table) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"fine\nna\xefve\n", "p.txt`, line 2: byte 0xef is not UTF-8"),
        ("p.txt", b" \n\n", "p.txt holds no prompt"),
        ("p.txt", b"one\n\ntwo\n", "p.txt, line 2: the prompt is empty"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": }\n', "line 2: it is not JSON"),
        ("p.jsonl", b'{"prompt": "a"}\n["a"]\n', "line 2: a list, expected an object"),
        ("p.jsonl", b'{"answer": "a"}\n', "line 1: the column 'prompt' is missing"),
        (
            "p.jsonl",
            b'{"prompt": "a", "n": 1}\n{"prompt": "b", "n": 1}\n{"prompt": "c"}\n',
            "line 3: the column 'n' is missing",
        ),
        (
            "p.jsonl",
            b'{"prompt": "a"}\n{"prompt": "b", "n": 1}\n',
            "line 2: the column 'n' is missing in line 1",
        ),
        ("p.jsonl", b'{"prompt": 3}\n', "line 1: the prompt is 3, expected a string"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": ""}\n', "line 2: the prompt is empty"),
    ],
)
def test_a_bad_file_gets_one_error_with_its_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_prompts(path)


def test_a_table_checks_itself() -> None:
    with pytest.raises(DataError, match="at least one prompt"):
        PromptTable([])
    with pytest.raises(DataError, match="at least one prompt"):
        PromptTable("3+4=")
    with pytest.raises(DataError, match="prompt 1 is a int, 3"):
        PromptTable(["a", 3])  # type: ignore[list-item]
    with pytest.raises(DataError, match="'answer' has 1 values for 2 prompts"):
        PromptTable(["a", "b"], {"answer": ["1"]})
    with pytest.raises(ConfigError, match="column is called 'finished'"):
        PromptTable(["a"], {"finished": [True]})
