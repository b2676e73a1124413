import contextlib
import http.client
import itertools
import socket

import pytest

from fednnunet.cli import commands
from fednnunet.cli.arguments import parse_run, parse_server
from fednnunet.errors import FednnUNetError
from fednnunet.events.event_files import EVENTS, EventFile
from fednnunet.report.dashboard import Dashboard, check_dashboard
from tests.report.page.made_up import SITES, a_training


@pytest.fixture
def dashboard():
    with Dashboard(0) as dashboard:
        dashboard.show(b'<html lang="en">one</html>')
        yield dashboard


def get(dashboard, path="/", host=None):
    port = int(dashboard.url.rstrip("/").rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Host": host.replace("PORT", str(port))} if host else {})
    return connection.getresponse()


def test_the_page_is_served_with_its_number(dashboard):
    assert get(dashboard).read() == b'<html lang="en" data-live="1">one</html>'
    dashboard.show(b'<html lang="en">two</html>')
    answer = get(dashboard, host="localhost:PORT")
    assert answer.read() == b'<html lang="en" data-live="2">two</html>'
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:PORT", "127.0.0.1.evil.example:PORT", "127.0.0.1:1"])
@pytest.mark.parametrize("path", ["/", "/events"])
def test_a_request_that_names_another_host_is_refused(dashboard, host, path):
    answer = get(dashboard, path, host)
    assert answer.status == 403
    assert b"one" not in answer.read()


@pytest.mark.parametrize("path", ["/events.jsonl", "/../etc/passwd", "/report.html", "/?x", "/index.html"])
def test_nothing_else_is_served(dashboard, path):
    assert get(dashboard, path).status == 404


def test_each_new_page_is_told_and_the_end(dashboard):
    answer = get(dashboard, "/events")
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert [answer.readline(), answer.readline()] == [b"data: 1\n", b"\n"]
    dashboard.show(b"two")
    assert [answer.readline(), answer.readline()] == [b"data: 2\n", b"\n"]
    changes = dashboard.changes()
    assert next(changes) == b"data: 2\n\n"
    dashboard.__exit__()
    assert b"event: end\n" in list(itertools.islice(iter(answer.readline, b""), 10))


def test_it_listens_on_the_loopback_interface_only(dashboard):
    port = int(dashboard.url.rstrip("/").rpartition(":")[2])
    with socket.socket() as other:  # the same port of another address is still free
        other.bind(("127.0.0.2", port))


def test_who_connects_and_wants_nothing_takes_neither_all_threads_nor_a_thread_for_ever(monkeypatch):
    monkeypatch.setattr("fednnunet.report.dashboard._REQUEST_SECONDS", 0.5)
    monkeypatch.setattr("fednnunet.report.dashboard._MOST_CONNECTIONS", 2)
    with Dashboard(0) as dashboard, contextlib.ExitStack() as stack:
        port = int(dashboard.url.rstrip("/").rpartition(":")[2])
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(3)]
        for one in reversed(silent):
            assert one.recv(1) == b""  # hung up on: the last one at once, the others when they have said nothing
        dashboard.show(b'<html lang="en">one</html>')
        assert get(dashboard).status == 200


def test_a_port_in_use_is_told_in_one_sentence_before_anything_starts(dashboard, tmp_path, capsys):
    port = dashboard.url.rstrip("/").rpartition(":")[2]
    sentence = (
        rf"The dashboard cannot be served on port {port} \(.*\): stop .*, or choose another with --dashboard PORT\."
    )
    with pytest.raises(FednnUNetError, match=sentence):
        check_dashboard(int(port))
    words = ["train", "--num_clients", "1", "--port", "18099", "--run_dir", str(tmp_path / "run"), "--dashboard", port]
    assert commands.server_main(words) == 1
    output = capsys.readouterr()
    assert "The dashboard cannot be served" in output.err
    assert "Waiting" not in output.out
    assert not (tmp_path / "run").exists()


def test_no_dashboard_needs_no_port():
    check_dashboard(None)


def test_the_port_has_a_default_and_run_hands_it_to_the_coordinator():
    from fednnunet.launcher.simulation import server_command

    assert parse_server(["train", "--num_clients", "2"]).coordinator.dashboard is None
    assert parse_server(["train", "--num_clients", "2", "--dashboard"]).coordinator.dashboard == 8090
    arguments = parse_run(["train", "1 2", "2d", "0", "--port", "9000", "--dashboard", "9001"])
    words = server_command(arguments)
    assert words[words.index("--dashboard") + 1] == "9001"


def test_the_dashboard_and_the_nodes_need_ports_of_their_own(capsys):
    with pytest.raises(SystemExit):
        parse_server(["train", "--num_clients", "2", "--port", "8090", "--dashboard"])
    assert "the nodes connect to port 8090: give --dashboard another one" in capsys.readouterr().err


def test_the_report_of_a_run_folder_is_written_again(tmp_path, capsys):
    file = EventFile(tmp_path / EVENTS)
    for event in a_training(3, SITES):
        file.emit(event)
    assert commands.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert "<dd>3 of 3</dd>" in (tmp_path / "report.html").read_text()


def test_a_folder_without_events_is_named_with_a_remedy(tmp_path, capsys):
    assert commands.report_main([str(tmp_path)]) == 1
    assert "is not a run folder: it has no events.jsonl" in capsys.readouterr().err.replace("\n", " ")
