"""Every constructor gives what the installed NumPy gives: programs/numpy_answers.py."""

import numpy as np
import pytest

import sharena


def test_every_call_is_answered_as_by_numpy(run_program):
    run_program("numpy_answers.py", deadline_s=240)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="this NumPy has none")
def test_strings_of_any_length_are_refused_for_what_they_are():
    for make in (
        lambda: sharena.array(["a"], dtype=np.dtypes.StringDType()),
        lambda: sharena.zeros(2, dtype=np.dtypes.StringDType()),
        lambda: sharena.empty(0, dtype=np.dtypes.StringDType),
    ):
        with pytest.raises(TypeError, match="its strings lie in private memory"):
            make()
