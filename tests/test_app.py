"""The flags of app.py; what it serves is in test_ui.py."""

import socket

import pytest

import app
from stentor.knobs import from_arguments
from stentor.store import EngineOptions


def options(monkeypatch: pytest.MonkeyPatch, *flags: str) -> EngineOptions:
    monkeypatch.setattr("sys.argv", ["app.py", *flags])
    return from_arguments(EngineOptions, app.read_flags())


def test_the_engine_is_chosen_by_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    assert options(monkeypatch) == EngineOptions("auto", None)
    assert options(monkeypatch, "--precision", "fp32", "--threads", "3") == EngineOptions("fp32", 3)


def test_training_is_switched_off_by_either_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, training in (
        ((), "auto"),
        (("--training", "on"), "on"),
        (("--training", "off"), "off"),
        (("--no-training",), "off"),
    ):
        monkeypatch.setattr("sys.argv", ["app.py", *flags])
        assert app.read_flags().training == training
    monkeypatch.setattr("sys.argv", ["app.py", "--help"])
    with pytest.raises(SystemExit):
        app.read_flags()
    assert "--no-training" in capsys.readouterr().out


def test_a_flag_out_of_its_range_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["app.py", "--pair", "demo", "--threads", "0"])
    with pytest.raises(SystemExit, match=r"^Threads must be at least 1; got 0\.$"):
        app.main()


def test_a_port_that_is_taken_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setattr("sys.argv", ["app.py", "--pair", "demo", "--port", port])
        with pytest.raises(SystemExit, match=rf"^Cannot serve at 127\.0\.0\.1:{port} \(--port\)"):
            app.main()
