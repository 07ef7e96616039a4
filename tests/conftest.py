"""What tests share."""

import pytest

from taicang.app.main import main


@pytest.fixture
def taicang(monkeypatch, capsys):
    """Runs the command as a shell would: exit code, standard output, standard error."""

    def run(*argv):
        monkeypatch.setattr("sys.argv", ["taicang", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return stop.value.code or 0, out.out, out.err

    return run
