"""How tests are spread over processes: `make test` runs pytest-xdist with `--dist loadgroup`."""

import re
from pathlib import Path

MAKEFILE = Path(__file__).parents[1] / "Makefile"


def test_files_stay_together_and_laws_are_grouped_by_memory(request):
    """Of all tests of this session: each is in one group."""
    for item in request.session.items:
        (mark,) = item.iter_markers("xdist_group")
        law = re.match(r"test_law\[(\w+)-\d", item.name)
        assert mark.args[0] == (f"laws of {law[1]}" if law else item.location[0])
    assert "--dist loadgroup" in MAKEFILE.read_text()
