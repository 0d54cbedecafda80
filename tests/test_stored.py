"""What benchmarks store: every value comes back, and rows of numbers stay rows."""

import json

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stored import store

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def stored(result, folder):
    store(result, folder / "deep" / "result.json", lambda _: "a table")
    return (folder / "deep" / "result.json").read_text()


@given(result=st.dictionaries(st.text(), NESTED))
def test_results_come_back_as_they_were(tmp_path_factory, result):
    assert json.loads(stored(result, tmp_path_factory.mktemp("results"))) == result


def test_rows_of_numbers_take_a_line_each_and_the_table_is_printed(tmp_path, capsys):
    text = stored({"runs": [{"scores": [[1.5, -2], [3, 4]], "of": ["[ a,", "b"]}], "none": []}, tmp_path)
    assert text.splitlines() == [
        "{",
        '  "runs": [',
        "    {",
        '      "scores": [',
        "        [1.5, -2],",
        "        [3, 4]",
        "      ],",
        '      "of": [',
        '        "[ a,",',
        '        "b"',
        "      ]",
        "    }",
        "  ],",
        '  "none": []',
        "}",
    ]
    assert capsys.readouterr().out == "a table\n"
