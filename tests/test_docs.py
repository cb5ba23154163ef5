"""The README can't go stale: its examples run, its output is real, its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_readme_shows_what_its_examples_print():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "readme.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not link.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / link).exists(), link


def test_the_changelog_names_the_version():
    import counterpoint

    assert f"## {counterpoint.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_help_texts_of_the_command_line_are_not_stale():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "command_line.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_option_and_field_that_has_no_help_elsewhere_is_in_the_docs():
    """The lines of --jsonl and the parts of a preset are documented where their names are listed."""
    from counterpoint.batch.lines import FIELDS
    from counterpoint.presets import CONTEXTS, OWN, read_presets

    page = (ROOT / "docs" / "command-line.md").read_text().partition("## Help")[0]
    missing = [name for name in (*FIELDS, *CONTEXTS, *read_presets(OWN)) if f"`{name}`" not in page]
    assert missing == []
