import pytest
from patience import PATIENCE_S


@pytest.fixture(scope="session", autouse=True)
def searches_are_not_cut():
    """What is found in the time that a user waits depends on the machine; tests get all that there is to find."""
    from counterpoint.constraints import clash, fields

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clash, "SECONDS", PATIENCE_S)
        patch.setattr(fields, "SECONDS", PATIENCE_S)
        yield
