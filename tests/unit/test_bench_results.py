"""The table of benches/README.md: who measures one figure anew leaves the others alone."""

from __future__ import annotations

from benches import results
from benches.results import Row


def test_a_figure_measured_anew_takes_its_own_line_and_no_other(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(f"Head.\n{results._BEGIN}\n{results._END}\nTail.\n")
    monkeypatch.setattr(results, "README", readme)
    first, second = Row("start", "9 ms", aim="< 10 ms", kept=True, measured="then"), Row("memory", "5 MB")
    results.write([first, second], "A machine.", ["start: no peer.", "memory: guessed."], figures=["start", "memory"])
    before = readme.read_text().splitlines()

    results.write([Row("start", "11 ms", aim="< 10 ms", kept=False, measured="now")], "A machine.", figures=["start"])

    after = readme.read_text().splitlines()
    assert "| start | 11 ms | - | - | < 10 ms | **missed** | now |" in after
    assert "- start: no peer." not in after
    others = [line for line in before if "start" not in line]
    assert [line for line in after if "start" not in line] == others
    assert (after[0], after[-1]) == ("Head.", "Tail.")
