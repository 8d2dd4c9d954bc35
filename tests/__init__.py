"""The tests of mrm, a folder for each room; what several of them need is in `support`."""

import pytest

pytest.register_assert_rewrite("tests.support")  # so that an assertion there shows its values too
