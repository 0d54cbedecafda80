import pickle

import numpy as np

from metagym.family import Params
from metagym.foreign.columns import params_type


def test_the_same_names_make_the_same_class():
    assert params_type(("a", "b")) is params_type(("a", "b"))
    assert params_type(("a", "b")) is not params_type(("b", "a"))
    assert issubclass(params_type(("a",)), Params)


def test_columns_survive_pickling():
    columns = params_type(("a", "b"))(a=np.arange(3), b=np.ones((3, 2)))
    again = pickle.loads(pickle.dumps(columns))

    assert type(again) is type(columns)
    np.testing.assert_array_equal(again.b, columns.b)
    assert len(again.take(np.array([0, 2]))) == 2
