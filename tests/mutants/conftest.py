"""The score of the collection, at the end of a run that judged it."""


def pytest_terminal_summary(terminalreporter):
    verdicts = {
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "mutant"
    }
    if verdicts:
        killed = sum(dead for _, dead in verdicts)
        share = 100 * killed / len(verdicts)
        terminalreporter.write_line(f"mutants: {killed} of {len(verdicts)} killed ({share:.0f}%)")
