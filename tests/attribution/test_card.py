"""The classifier's card follows from the table, and the page in the documentation from both."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilp_service.attribution.card import (
    BEGIN,
    END,
    PROVENANCE,
    SCORES,
    card,
    facts,
    provenance,
    put_into,
    score_values,
)
from ilp_service.attribution.registration import read_signals
from ilp_service.benchmark import table as benchmark_table
from ilp_service.benchmark.summary import MACRO_F1
from ilp_service.errors import DataFormatError
from tests.attribution.tables import CAUSES, signals_table

PAGE = Path(__file__).parents[2] / "docs" / "meta-classifier.md"


def test_the_documented_card_is_that_of_the_built_in_table() -> None:
    made = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert facts(read_signals(None).table).strip() in made, (
        "the table has changed: ilp classifier card --into docs/meta-classifier.md [--scores benchmark.json]"
    )


def test_it_reads_the_metadata_that_the_benchmark_writes() -> None:
    assert benchmark_table.PROVENANCE == PROVENANCE
    assert set(provenance(read_signals(None).table)) >= {"worlds", "recipe"}


def test_a_table_whose_keys_are_no_text_is_refused(tmp_path: Path) -> None:
    table = signals_table(per_cause=2)
    place = table.column_names.index("cause")
    pq.write_table(table.set_column(place, "cause", pa.array([1] * table.num_rows)), tmp_path / "signals.parquet")
    with pytest.raises(DataFormatError, match="int64 in column 'cause'; expected text"):
        read_signals(tmp_path / "signals.parquet")


def test_it_counts_the_rows_of_every_cause_world_and_family() -> None:
    table = signals_table(worlds=3, per_cause=7)
    text = card(table)
    assert "105 samples of 3 planted worlds of 2 families (llama: 2, qwen2: 1)." in text
    for cause in CAUSES:
        assert f"| {cause} | 21 |" in text
    assert text.count("not known |") == 3
    assert "No scores were given" in text
    assert card(table) == text


def test_rows_without_a_label_do_not_count() -> None:
    table = signals_table(per_cause=2)
    labels = [None, *table["cause"].to_pylist()[1:]]
    text = card(table.set_column(table.column_names.index("cause"), "cause", pa.array(labels)))
    assert f"{table.num_rows - 1} samples" in text


def test_metadata_that_cannot_be_read_are_none() -> None:
    table = signals_table(per_cause=2)
    assert provenance(table.replace_schema_metadata({PROVENANCE: b"{"})) == {}
    made = {"recipe": 7, "worlds": {"0": {"cloze_accuracy": 0.5}}}
    text = card(table.replace_schema_metadata({PROVENANCE: json.dumps(made).encode()}))
    assert "world recipe 7" in text
    assert "50.0 %" in text


def test_scores_come_as_numbers_or_with_their_interval() -> None:
    scores = {
        "macro_f1": 0.95,
        "ece": {"value": 0.031, "interval": [0.02, 0.05]},
        "seconds": 12,
        "rules_macro_f1": None,
        "verified": {"missing_knowledge": 64},
    }
    assert score_values(scores) == {"macro_f1": 0.95, "ece": 0.031}
    text = card(signals_table(per_cause=2), scores)
    assert "| macro-F1 over the causes | 0.950 | not given |" in text
    assert "| expected calibration error | 0.031 | 0.020 to 0.050 |" in text
    assert "missing_knowledge 64" in text
    assert "seconds" not in text


def test_it_shows_what_the_benchmark_reports() -> None:
    assert set(MACRO_F1.values()) <= set(SCORES)
    scores = {
        "macro_f1": 0.9,
        "intervals": {"macro_f1": {"value": 0.9, "low": 0.85, "high": 0.93, "worlds": 4}},
        "per_cause": {"missing_knowledge": {"precision": 0.91, "recall": 0.82, "f1": 0.86, "true": 70}},
        "trained_on": {"qwen2": ["llama-small-1"]},
        "worlds": ["qwen2-small-100"],
    }
    text = card(signals_table(per_cause=2), scores)
    assert "| macro-F1 over the causes | 0.900 | 0.850 to 0.930 |" in text
    assert "| missing_knowledge | 0.910 | 0.820 | 0.860 | 70 |" in text
    assert "one family and its seeds left out, each family in turn, on worlds of that family (qwen2-small-100):" in text
    one = {**scores, "intervals": {"macro_f1": {"value": 0.9, "low": None, "high": None, "worlds": 1}}}
    assert "| macro-F1 over the causes | 0.900 | not given |" in card(signals_table(per_cause=2), one)


def test_only_the_made_part_of_a_page_is_replaced() -> None:
    page = f"# Mine\n{BEGIN}\nold\n{END}\nend\n"
    new = put_into(page, "new")
    assert new == f"# Mine\n{BEGIN}\nnew\n{END}\nend\n"
    assert put_into(new, "new") == new
    with pytest.raises(DataFormatError, match="no part"):
        put_into("# Mine\n", "new")
    with pytest.raises(DataFormatError, match="no part"):
        put_into(f"{END}\n{BEGIN}\n", "new")
