from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many of the planted bugs were found, whatever else the run did."""
    reports = {
        outcome: [
            report
            for report in terminalreporter.stats.get(outcome, [])
            if "test_a_planted_bug_is_caught[" in report.nodeid
        ]
        for outcome in ("passed", "failed", "skipped")
    }
    total = sum(map(len, reports.values()))
    if total:
        terminalreporter.write_line(f"planted bugs: {len(reports['passed'])}/{total} caught")
