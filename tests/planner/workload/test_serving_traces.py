import numpy as np
import pytest

from shardwright.planner.errors import InputError
from shardwright.planner.workload.serving_traces import check_context, read_schedule, read_trace
from tests.reference import shared_file

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.fixture
def write(tmp_path):
    def make(text, name="trace.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return make


def test_azure_traces_count_from_the_first_arrival_with_all_seven_digits(write):
    trace = read_trace(write(HEADER + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"))
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 4.314579], abs=1e-6)
    assert trace.prompt_tokens.tolist() == [374, 396]
    assert trace.output_tokens.tolist() == [44, 109]


def test_mooncake_traces_know_which_blocks_are_cached(write):
    lines = [
        '{"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [1, 2, 3]}',
        '{"timestamp": 500, "input_length": 1500, "output_length": 7, "hash_ids": [1, 2, 9]}',
        '{"timestamp": 900, "input_length": 512, "output_length": 7, "hash_ids": [1]}',
    ]
    trace = read_trace(write("\n".join(lines), "trace.jsonl"))
    assert trace.arrival_s.tolist() == [0.0, 0.5, 0.9]
    assert trace.cached_tokens.tolist() == [0, 1024, 511]


def test_apex_traces_are_in_nanoseconds(write):
    lines = [
        '{"StartTimeOffset": 1000000000, "ContextTokens": 10, "GeneratedTokens": 3}',
        '{"StartTimeOffset": 3000000000, "ContextTokens": 12, "GeneratedTokens": 4}',
    ]
    assert read_trace(write("\n".join(lines), "trace.jsonl")).arrival_s.tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("", "holds no request"),
        ("2023-11-16 18:15:46,-5,44\n", "line 2: ContextTokens must be a whole number"),
        ("2023-11-16 18:15:46,0,44\n", "line 2: ContextTokens must be a whole number"),
        ("2023-11-16 18:15:46,374,\n", "line 2: GeneratedTokens is missing"),
        ("2023-11-16 18:15:46,374\n", "line 2: has 2 of 3 columns"),
        ("2023-11-16 18:15:46,4.5,3\n", "line 2: ContextTokens must be a whole number"),
        ("yesterday,374,44\n", "line 2: TIMESTAMP 'yesterday'"),
        ("2023-11-16 18:15:50,3,4\n2023-11-16 18:15:46,3,4\n", "time goes backwards at request 2"),
    ],
)
def test_bad_azure_traces_are_refused_in_one_line(write, rows, words):
    with pytest.raises(InputError, match=words) as caught:
        read_trace(write(HEADER + rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"timestamp": 0, "input_length": -1, "output_length": 5}', "input_length must be"),
        ('{"timestamp": 0, "output_length": 5}', "input_length is missing"),
        ('{"timestamp": "x", "input_length": 1, "output_length": 5}', "timestamp must be a number"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 5, "hash_ids": 3}', "hash_ids must be a list"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 5, "hash_ids": [[1]]}', "hash_ids must be a list"),
        ('{"timestamp": 0, "input_length": true, "output_length": 5}', "input_length must be"),
        ('{"StartTimeOffset": -1, "ContextTokens": 1, "GeneratedTokens": 5}', "StartTimeOffset must be"),
        ('{"timestamp": 0, ', "not a JSON object"),
    ],
)
def test_bad_json_traces_are_refused_in_one_line(write, line, words):
    with pytest.raises(InputError, match=words) as caught:
        read_trace(write(line, "trace.jsonl"))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_trace_says_what_a_trace_is(write):
    with pytest.raises(InputError, match="TIMESTAMP, ContextTokens, GeneratedTokens"):
        read_trace(write("a,b\n1,2\n"))


def test_a_request_longer_than_the_context_is_named(write):
    trace = read_trace(write(HEADER + "2023-11-16 18:15:46,100,10\n2023-11-16 18:15:47,5000,10\n"))
    check_context(trace, None, "any")
    check_context(trace, 5010, "any")
    with pytest.raises(InputError, match="request 2 has 5000 prompt and 10 output tokens"):
        check_context(trace, 5009, "tiny")


def test_schedules_give_a_rate_for_every_hour(write):
    assert read_schedule(write("hour,other,mean_rps\n0,x,1.5\n1,y,0\n")) == [("0", 1.5), ("1", 0.0)]
    for text, words in [
        ("hour,speed\n0,1\n", "rate_per_s, mean_rps or rps"),
        ("hour,rps\n0,-1\n", "line 2: rps must be"),
        ("hour,rps\n", "holds no hour"),
        ("hour,rps\n0\n", "line 2: rps must be"),
        ("hour,rps\n" + "x" * 200_000 + ",1\n", "line 2: not CSV"),
    ]:
        with pytest.raises(InputError, match=words):
            read_schedule(write(text))


def test_the_published_azure_traces_are_read_whole():
    trace = read_trace(shared_file("traces/azure/AzureLLMInferenceTrace_conv.csv"))
    assert len(trace) == 19_366
    assert trace.rate_per_s == pytest.approx(5.53, abs=0.01)
    assert np.all(trace.prompt_tokens > 0)
    assert len(read_trace(shared_file("traces/azure/AzureLLMInferenceTrace_code.csv"))) == 8_819
    assert len(read_schedule(shared_file("traces/azure/azure2024_conv_hourly_digitised.csv"))) > 24
