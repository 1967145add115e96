"""What a user reads of an error."""

import pytest
from kedro.pipeline import Pipeline
from pydantic import BaseModel, ValidationError

from rao_kedro.errors import DataError
from rao_kedro.framework.error_text import LINES, error_sentences, fit_error

WIDTH = 80


def raised(function, *arguments):
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return caught.value


def fail(error, cause=None):
    raise error from cause


def test_an_error_of_ours_is_its_own_sentences_also_as_the_cause_of_another():
    ours = DataError("row 3 has no prompt\nrow 4 has none")
    for error in (raised(fail, ours), raised(fail, RuntimeError("while loading"), ours)):
        assert error_sentences(error) == ["row 3 has no prompt", "row 4 has none"]


def test_a_bug_says_what_it_is_and_where():
    line = fail.__code__.co_firstlineno + 1
    assert error_sentences(raised(fail, KeyError("rewards"))) == ["KeyError: 'rewards'", f"at {__name__}:{line}"]


def test_what_kedro_says_of_a_wrong_name_is_shown_without_its_place():
    error = raised(Pipeline([]).only_nodes, "nope")
    assert error_sentences(error) == ["Pipeline does not contain nodes named ['nope']."]


def test_a_wrong_value_of_a_model_is_a_sentence_about_the_parameter():
    class Beta(BaseModel):
        beta: float

    error = raised(Beta.model_validate, {"beta": "strong"})
    assert isinstance(error, ValidationError)
    (said,) = error_sentences(error)
    assert said.startswith("parameter beta: Input should be a valid number")


def test_sentences_that_fit_are_whole():
    sentences = ["long " * 40, "short"]
    assert fit_error(sentences, ["The log is x."], WIDTH) == sentences


def test_of_a_few_long_sentences_the_beginning_of_each_is_shown():
    said = fit_error([f"sentence {i} is {'very ' * 60}long" for i in range(3)], ["The log is x."], WIDTH)
    assert len(said) == LINES - 1 and all(len(line) <= WIDTH for line in said)
    assert [i for i in range(3) if any(f"sentence {i} is very" in line for line in said)] == [0, 1, 2]
    assert len([line for line in said if line.endswith(" ...")]) == 3


def test_of_many_lines_the_first_and_the_last_are_shown():
    said = fit_error(["the first " + "long " * 40, *map(str, range(50)), "the last"], ["The log is x."] * 2, WIDTH)
    assert len(said) == LINES - 2 and all(len(line) <= WIDTH for line in said)
    assert said[0].startswith("the first") and said[-1] == "the last"
    assert "... (47 more lines are in the log)" in said
