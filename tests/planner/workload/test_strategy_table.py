from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.planner.strategy import Strategy
from shardwright.planner.workload.strategy_table import concatenate, row_codes, table_of, table_of_columns

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 1 << 45), st.integers(0, 1)), min_size=1, max_size=40)


def test_a_row_reads_back_as_the_strategy_it_came_from():
    given_strategies = [
        Strategy(tp=4, sp=True, pp=2, vpp=5, dp_shard=2, zero=1, recompute="selective", recompute_modules=("norm",)),
        Strategy(tp=2, ep=2, dp_shard=4, zero=3, recompute="full", recompute_layers=3),
        Strategy(pp=4, stage_layers=(3, 3, 3, 1), cp=2, cp_comm="all_gather", schedule="gpipe"),
    ]
    table = table_of(given_strategies, layers=10)
    assert [table.row(i) for i in range(3)] == given_strategies


def test_products_of_degrees_are_the_world():
    table = table_of_columns({"tp": [2, 4], "cp": 2, "pp": [3, 1], "dp_shard": 5, "dp_replicate": 2, "ep": 4})
    assert table.world_size.tolist() == [2 * 2 * 3 * 10, 4 * 2 * 10]
    assert table.edp.tolist() == [10, 20]


def test_tables_join_and_pick():
    table = concatenate([table_of_columns({"tp": [1, 2]}), table_of_columns({"tp": [4]})])
    assert table.take(np.array([2, 0])).tp.tolist() == [4, 1]


@settings(derandomize=True, max_examples=100)
@given(ROWS)
def test_codes_tell_apart_exactly_the_distinct_rows(rows):
    columns = [np.array(column, np.int64) for column in zip(*rows, strict=True)]
    first, inverse = row_codes(columns)
    assert len(first) == len(set(rows))
    for column in columns:
        assert np.array_equal(column[first][inverse], column)


def test_a_custom_layout_survives_beside_rows_without_one():
    plain = Strategy(pp=2, dp_shard=2)
    fitted = Strategy(pp=2, dp_shard=2, stage_layers=(4, 6), recompute="full", stage_recompute=(2, 0))
    table = concatenate([table_of([plain], layers=10), table_of([fitted], layers=10)])
    assert [table.row(i) for i in range(2)] == [plain, fitted]
