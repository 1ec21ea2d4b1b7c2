"""Files of texts: each comes back as it was written, or is refused by its name, row and remedy."""

import contextlib
import csv
import gzip
import io
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dysem_lab.data import tables
from dysem_lab.data.columns import number_of, pair_numbers
from dysem_lab.data.sts import load_data
from dysem_lab.data.tables import read_lines, read_table
from dysem_lab.data.transfer_data import load_transfer
from dysem_lab.errors import DataError
from dysem_lab.translation.parallel_table import ParallelTable

HEADER = ["sentence1", "sentence2", "score"]
# Quotes of every kind, none of which may get lost.
QUOTES = [
    ['"Hello" she said.', 'He said "no"', "1.0"],
    ['"an open quote', "a second", "2.0"],
    ['a closing quote"', '"', "3.0"],
    ['"', '""', "4.0"],
    ['5" pipe', "don't \"x\" 'y' “z”", "5.0"],
    ['"The battery""s state"', '"in quotes"', "0.5"],
]


def plain_tsv(rows) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


def written(rows, delimiter, quoting=csv.QUOTE_MINIMAL) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, quoting=quoting).writerows(rows)
    return file.getvalue()


def read(tmp_path, name, content):
    """Return the table in a file of this content as lists: its header, then its rows."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = read_table(path)
    return [list(table.columns), *table.to_numpy().tolist()]


def quietly(tmp_path, name, content):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read(tmp_path, name, content)


# --- quotes ------------------------------------------------------------------------------------


def test_a_tsv_without_quoting_keeps_every_quote(tmp_path):
    assert quietly(tmp_path, "t.tsv", plain_tsv([HEADER, *QUOTES])) == [HEADER, *QUOTES]


def test_an_unclosed_quote_swallows_no_row_of_a_tsv(tmp_path):
    rows = [["a", "b", "1"], ['"open', "d", "2"], ["e", "f", "3"], ["g", 'closed"', "4"]]
    assert quietly(tmp_path, "t.tsv", plain_tsv([HEADER, *rows])) == [HEADER, *rows]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL], ids=["minimal", "all"])
def test_quotes_that_a_spreadsheet_put_around_fields_are_taken_off_and_said(tmp_path, quoting):
    rows = [HEADER, *QUOTES, ["a\ttab", "two\nlines", "1.0"]]
    with pytest.warns(UserWarning, match=r"t\.tsv: its fields are in quotes as a spreadsheet"):
        assert read(tmp_path, "t.tsv", written(rows, "\t", quoting)) == rows


def test_fields_that_may_be_in_quotes_either_way_stay_and_are_said(tmp_path):
    rows = [HEADER, ['"Come in."', "a", "1"], ["b", '"Go, now."', "2"]]
    with pytest.warns(UserWarning, match=r"t\.tsv: 2 fields are in quotes, which are read as part"):
        assert read(tmp_path, "t.tsv", plain_tsv(rows)) == rows


cells = st.text(st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"]))
quoted_cells = st.text('"a ,', max_size=4) | cells


@given(st.lists(st.lists(quoted_cells, min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_spreadsheet_s_tsv_comes_back_as_it_was_whatever_its_texts(tmp_path_factory, rows):
    # Any text with a quote makes a doubled one; without one there is nothing to take off.
    folder = tmp_path_factory.getbasetemp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read(folder, "any.tsv", written([HEADER, *rows], "\t")) == [HEADER, *rows]
        assert read(folder, "any.csv", written([HEADER, *rows], ",")) == [HEADER, *rows]


@given(
    st.lists(st.lists(quoted_cells, min_size=3, max_size=3), min_size=1, max_size=6).filter(
        lambda rows: any(any(row) for row in rows)
    )
)
def test_a_plain_tsv_comes_back_as_it_was_or_says_what_it_took_off(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = read(folder, "plain.tsv", plain_tsv([HEADER, *rows]))
    assert found == [HEADER, *rows] or "spreadsheet" in str(said[0].message)


@pytest.mark.parametrize(
    "name", ["en/STS12", "en/STS14", "en/STS15", "en_mteb/STS16", "stsb/test.en", "stsb/dev.ru"]
)
def test_real_pairs_rewritten_as_tsv_are_the_same_row_by_row(sts_folder, tmp_path, name):
    with gzip.open(sts_folder / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert any(cell.startswith('"') for row in rows for cell in row)
    assert quietly(tmp_path, "plain.tsv", plain_tsv(rows)) == rows
    with pytest.warns(UserWarning, match="as a spreadsheet writes them"):
        assert read(tmp_path, "quoted.tsv", written(rows, "\t")) == rows
    assert quietly(tmp_path, "quoted.csv", written(rows, ",")) == rows


def test_a_csv_field_over_lines_and_commas_is_said_by_row(tmp_path):
    text = 'sentence1,sentence2,score\na,b,1\n"open,c,2\nd,e,3\nf",g,4\n'
    with pytest.warns(UserWarning, match=r"t\.csv: .*over line ends and commas in row 1; .*quote"):
        rows = read(tmp_path, "t.csv", text)
    assert rows[2] == ["open,c,2\nd,e,3\nf", "g", "4"]
    two_lines = [HEADER, ["two\nlines", "one, with a comma", "1"]]
    assert quietly(tmp_path, "t.csv", written(two_lines, ",")) == two_lines


@pytest.mark.parametrize(
    ("field", "row"),
    [('"Hello" she said.', 1), ('"a ""b" c', 1), (r'"He said \"no\""', 1), ('"open', 1)],
)
def test_a_csv_with_a_quote_out_of_place_is_refused_by_row(tmp_path, field, row):
    text = f"sentence1,sentence2,score\na,b,1\n{field},c,2\n"
    with pytest.raises(DataError, match=rf"t\.csv, row {row}: .*double those inside"):
        read(tmp_path, "t.csv", text)


# --- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_blank_line_among_rows_of_one_column_is_an_empty_text(tmp_path, name):
    assert read(tmp_path, name, "\ntext\nun\n\ntrois\n\n") == [["text"], ["un"], [""], ["trois"]]
    separator = "," if name == "t.csv" else "\t"
    text = "en,fr\n\none,un\n\n".replace(",", separator)
    assert read(tmp_path, name, text) == [["en", "fr"], ["one", "un"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.TSV"])
def test_lines_may_end_as_on_any_system(tmp_path, name, end):
    separator = "," if name == "t.csv" else "\t"
    rows = [["a", "b"], ["1", "2"], ["x", "ÿ"]]
    text = end.join(separator.join(row) for row in rows)
    assert quietly(tmp_path, name, text) == rows
    assert quietly(tmp_path, name, text + end) == rows


def test_a_row_of_too_many_values_is_named(tmp_path):
    for name, separator in (("t.csv", ","), ("t.tsv", "\t")):
        text = "a,b,score\nx,y,1\nx,y,4,5\n".replace(",", separator)
        with pytest.raises(DataError, match=r"row 1: it has 4 values, more .* \(3\); (put|take)"):
            read(tmp_path, name, text)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_values_that_lack_at_the_end_of_a_row_are_empty_and_said(tmp_path, name):
    text = "a,b,c\nx,y,z\nx\n".replace(",", "," if name == "t.csv" else "\t")
    with pytest.warns(UserWarning, match=rf"{name}: fewer values than its header in row 1; .*line"):
        assert read(tmp_path, name, text)[2] == ["x", "", ""]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "sentence1;sentence2;score\na, b;c;4,5\n", "separated by semicolons.*4.5"),
        ("t.csv", "sentence1\tsentence2\tscore\na\tb\t1\n", "separated by tabs, which is no CSV"),
        ("t.tsv", "sentence1,sentence2,score\na,b,1\n", "separated by commas, which is no TSV"),
        ("t.csv", '"sentence1";"sentence2"\n"a";"b"\n', "separated by semicolons"),
        ("t.csv", "", "is empty; it needs a line with the names of its columns"),
        ("t.tsv", "\n\n", "is empty"),
        ("t.jsonl", " \n", "is empty; it needs a JSON object in each line"),
        ("t.csv", "score,text,score\n1,a,2\n", "'score' is the name of several columns"),
        ("t.tsv", "score\ttext\t score \n1\ta\t2\n", "'score' is the name of several columns"),
        ("t.jsonl", '{"score": 1, "score": 2}\n', "line 1: .*'score' occurs twice"),
        ("t.jsonl", '{"a": 1}\n["a", "b"]\n', r"line 2: \[\"a\", \"b\"\] is no JSON object"),
        ("t.jsonl", "7\n", "line 1: 7 is no JSON object"),
        ("t.jsonl", "null\n", "line 1: null is no JSON object"),
        ("t.jsonl", '[\n{"a": 1}\n]\n', "line 1: cannot be read as JSON.*one JSON object"),
        ("t.jsonl", '{"a": ' + "[" * 100_000 + "\n", "line 1: cannot be read as JSON"),
        ("t.jsonl", '{"a": ' + "9" * 5_000 + "}\n", "line 1: cannot be read as JSON"),
    ],
)
def test_what_is_no_such_table_is_named_with_the_remedy(tmp_path, name, text, words):
    with pytest.raises(DataError, match=rf"t\..*{words}"):
        read(tmp_path, name, text)


def test_two_parquet_columns_of_one_name_are_refused(tmp_path):
    import pyarrow
    from pyarrow import parquet

    columns = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    twice = pyarrow.Table.from_arrays(columns, names=["score", "score"])
    parquet.write_table(twice, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="'score' is the name of several columns"):
        read_table(tmp_path / "t.parquet")


def test_values_of_json_and_parquet_are_those_that_were_written(tmp_path):
    values = {
        "text": ["NA", None, "2020-01-01"],
        "date_at": ["2020", "1", "x"],
        "n": [1, None, 2**60 + 1],
        "x": [1.5, None, 0.1],
        "is": [True, None, False],
        "of": [["a"], None, []],
    }
    frame = pd.DataFrame({name: pd.Series(of, dtype=object) for name, of in values.items()})
    frame["n"] = frame["n"].astype("Int64")
    frame.to_parquet(tmp_path / "t.parquet")
    lines = [json.dumps(dict(zip(values, row, strict=True))) for row in zip(*values.values())]  # noqa: B905
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for name in ("t.parquet", "t.jsonl"):
        table = read_table(tmp_path / name)
        assert {column: table[column].tolist() for column in table} == values


@pytest.mark.parametrize("rows", [[4, 5, 6], [9, 7, 2]], ids=["a range", "others"])
def test_an_index_with_a_name_is_a_column(tmp_path, rows):
    frame = pd.DataFrame({"row": rows, "text": ["a", "b", "c"], "kind": ["x", "y", "x"]})
    frame["kind"] = frame["kind"].astype("category")
    frame.set_index("row").to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table["row"].tolist() == rows
    assert table["kind"].tolist() == ["x", "y", "x"]


# --- encodings and sizes -----------------------------------------------------------------------

TEXT = "sentence1,sentence2,score\nun café,b,1\n"


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.txt"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TEXT.encode("latin-1"), r"byte 0xe9 in line 2\): it may be in Latin-1.*save it as UTF-8"),
        (TEXT.encode("utf-16"), "begins as UTF-16 does; save it as UTF-8"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "begins as UTF-16 does"),
        ("s,t\nabc".encode("utf-16-le"), "line 1 holds a null character, as UTF-16 does"),
        (gzip.compress(TEXT.encode(), mtime=0), "packed by gzip; end its name in .gz"),
        (b"PK\x03\x04\xff\xfe", "a zip or a spreadsheet; save the table as CSV"),
        (b"PAR1\xff\xfe", "it is parquet; end its name in .parquet"),
    ],
)
def test_another_encoding_is_named_with_the_remedy(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"t\.\w+: .*{words}"):
        read_lines(path) if name == "t.txt" else read_table(path)


def test_a_byte_order_mark_of_utf_8_is_no_text(tmp_path):
    assert read(tmp_path, "t.tsv", b"\xef\xbb\xbfa\tb\n1\t2\n") == [["a", "b"], ["1", "2"]]


@pytest.mark.parametrize("name", ["t.csv.gz", "t.tsv.gz", "t.jsonl.gz", "t.csv"])
def test_no_more_than_a_bounded_size_is_unpacked(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tables, "MAX_BYTES", 2 << 20)
    content = b"text\n" + b"a" * (3 << 20)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=rf"{name} holds more than 2 MB of text; split it"):
        read_table(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "," * 1_000),
        ("t.tsv", "a\t" * 1_000),
        ("t.jsonl", "\n".join(f'{{"a{i}": 1}}' for i in range(1_001))),
        ("t.csv", "a" + ",a" * 999 + "\n" * 5_001),
        ("t.csv", "a,b,c\n" + "," * 15_000_001),
        ("t.jsonl", "{}\n" * 5_000_001),
    ],
)
def test_no_more_than_so_many_columns_and_values_are_read(tmp_path, name, content):
    with pytest.raises(DataError, match=r"rows of .* columns are more than 1,000 columns or 5,000"):
        read(tmp_path, name, content)


def test_a_small_parquet_file_of_many_long_texts_needs_little_memory(tmp_path):
    text = "x" * 2_000
    pd.DataFrame({"text": [text] * 50_000}).to_parquet(tmp_path / "t.parquet")
    values = read_table(tmp_path / "t.parquet")["text"].tolist()
    assert values == [text] * 50_000
    assert len(set(map(id, values))) == 1


def test_a_parquet_file_with_too_many_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_VALUES", 1_000)
    pd.DataFrame({"text": ["a"] * 1_001}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="1,001 rows of 1 columns are more than"):
        read_table(tmp_path / "t.parquet")


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("4.5", 4.5),
        (" 3. ", 3.0),
        (".5", 0.5),
        ("1e-3", 0.001),
        (2, 2.0),
        (np.float32(0.5), 0.5),
        *((none, None) for none in ("4,5", "nan", "inf", "1e400", "1_0", "٤", "0x1", "", "4.5.6")),
        *((none, None) for none in (True, False, None, [], 10**400, float("inf"), np.nan, 1j)),
    ],
)
def test_a_number_is_a_finite_one_and_nothing_that_python_takes_for_one(value, number):
    assert number_of(value) == number


def numbered(*values, name="row"):
    return pd.DataFrame({name: pd.Series(values, dtype=object)})


@pytest.mark.parametrize("rows", [("0", "2", "1"), (0, 2, 1), ("0.0", "2.", " 1 "), (0.0, 2.0, 1)])
def test_rows_are_whole_numbers_however_they_are_written(rows):
    for name in ("row", "Row", "pair_ID", "pair_id"):
        found = pair_numbers({"en": ("t", numbered(*rows, name=name))})["en"]
        assert found.tolist() == [0, 2, 1]
        assert found.dtype == np.int64


@pytest.mark.parametrize(
    "row",
    [
        *("1e30", "nan", "-1", "", "1.5", "x", "9223372036854775808", "1e3", "٣", "0x1"),
        *(1e30, float("nan"), -1, -1.0, 1.5, None, True, 2**63, [], float(2**53)),
    ],
)
def test_a_row_that_is_no_row_number_is_named(row):
    with pytest.raises(DataError, match=r"t\.csv, row 1: row .* is not a whole number from 0 on"):
        pair_numbers({"en": ("t.csv", numbered(0, row))})


def plain(n):
    return pd.DataFrame({"text": ["x"] * n})


def test_tables_without_numbers_are_aligned_by_position_where_they_are_as_long():
    found = pair_numbers({"en": ("e", plain(3)), "fr": ("f", plain(3))})
    assert [rows.tolist() for rows in found.values()] == [[0, 1, 2]] * 2
    with pytest.raises(DataError, match=r"e has 3 rows, f has 2 rows.*'row' column"):
        pair_numbers({"en": ("e", plain(3)), "fr": ("f", plain(2))})


def test_a_complete_table_needs_no_rows_beside_one_that_has_them():
    found = pair_numbers({"en": ("e", plain(4)), "ar": ("a", numbered(3, 0))})
    assert [rows.tolist() for rows in found.values()] == [[0, 1, 2, 3], [3, 0]]
    with pytest.raises(DataError, match="a has row 3, but e without a column 'row' has 3 rows"):
        pair_numbers({"en": ("e", plain(3)), "ar": ("a", numbered(3, 0))})


def test_a_table_that_numbers_its_pairs_is_not_laid_beside_one_without():
    # The numbers of SICK begin with 1, and may be any.
    for other in (plain(2), numbered(0, 1)):
        with pytest.raises(DataError, match="s numbers its pairs by 'pair_ID', o does not"):
            pair_numbers({"o": ("o", other), "s": ("s", numbered(1, 2, name="pair_ID"))})


def test_the_number_that_all_tables_have_is_the_one_that_counts():
    both = numbered(0, 1).assign(pair_ID=[5, 7])
    other = numbered(7, 5, name="pair_ID")
    found = pair_numbers({"en": ("e", both), "fr": ("f", other)})
    assert [rows.tolist() for rows in found.values()] == [[5, 7], [7, 5]]
    assert pair_numbers({"en": ("e", both), "fr": ("f", both)})["en"].tolist() == [0, 1]


# --- whatever a file holds ---------------------------------------------------------------------


def sound(suffix, folder):
    """Return the bytes of a sound table, numbered and with quotes, in a format."""
    columns = {"sentence1": ['a "b"', "ç"], "sentence2": ["c, d", "漢"], "score": [1.0, 5.0]}
    frame = pd.DataFrame({**columns, "row": [1, 0], "text": ["x", "y"], "label": ["0", "1"]})
    path = folder / f"sound{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif ".jsonl" in suffix:
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, sep="\t" if ".tsv" in suffix else ",", index=False)
    return path.read_bytes()


@given(st.data(), st.sampled_from(tables.SUFFIXES))
def test_any_bytes_are_read_or_refused_by_every_reader(tmp_path_factory, data, suffix):
    folder = tmp_path_factory.mktemp("any")
    content = data.draw(st.binary(max_size=80) | st.text(max_size=80).map(lambda t: t.encode()))
    if data.draw(st.booleans()):  # a sound table with some of its bytes exchanged
        whole, place = sound(suffix, folder), data.draw(st.integers(0, 700))
        content = whole[:place] + content[:9] + whole[place + data.draw(st.integers(0, 9)) :]
    for name in (f"test.en{suffix}", f"MR{suffix}"):
        (folder / name).write_bytes(content)
    (folder / "test.fr.csv").write_text("sentence1,sentence2,score\nun,deux,1\n", "utf-8")
    readers = (
        lambda: read_table(folder / f"test.en{suffix}"),
        lambda: load_data(folder, languages=("en", "fr")),
        lambda: ParallelTable.read(folder),
        lambda: ParallelTable.read(folder / f"test.en{suffix}"),
        lambda: load_transfer(folder, "MR"),
    )
    for reader in readers:
        with warnings.catch_warnings(), contextlib.suppress(DataError):
            warnings.simplefilter("ignore")
            reader()
