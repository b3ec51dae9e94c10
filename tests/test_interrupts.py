"""Ctrl-C, SIGTERM and SIGHUP: what a script and a loop make of them."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import PROJECT

from konohana.interrupts import SIGNALS, StopRequest
from konohana.settings import run

pytestmark = pytest.mark.skipif(os.name == 'nt', reason='Windows has no signals between processes')

SCRIPT = """
import sys, time
from pathlib import Path
from konohana.settings import run

def main():
    try:
        print('started', flush=True)
        time.sleep(20)
    finally:
        for i in range(3):
            print('saving', file=sys.stderr)
            time.sleep(0.1)
        Path(sys.argv[1]).write_text('saved')

run(main)
"""


@pytest.fixture
def handlers():
    """What the test's process does with the signals is the same before and after."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('number', SIGNALS)
def test_a_signal_ends_a_script_like_ctrl_c(number, tmp_path):
    command = [sys.executable, '-c', SCRIPT, str(tmp_path / 'file')]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == 'started\n'
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors == 'saving\n' * 3 + 'Stopped.\n'
    assert (tmp_path / 'file').read_text() == 'saved'


def test_closing_the_terminal_does_not_end_the_saving(tmp_path):
    pty = pytest.importorskip('pty')
    # The kernel and the shell both send SIGHUP, and what is printed afterwards has nowhere to go.
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(PROJECT)
        os.execv(sys.executable, [sys.executable, '-c', SCRIPT, str(tmp_path / 'file')])
    assert os.read(terminal, 100).startswith(b'started')
    os.close(terminal)
    time.sleep(0.1)
    os.kill(pid, signal.SIGHUP)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert (tmp_path / 'file').read_text() == 'saved'


@pytest.mark.parametrize('number', SIGNALS)
def test_run_in_process_puts_the_handlers_back(number, handlers):
    def main(arguments):
        if arguments:
            signal.raise_signal(number)

    run(main, [])
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers
    with pytest.raises(SystemExit) as ended:
        run(main, ['x'])
    assert ended.value.code == 130


def test_in_another_thread_run_leaves_signals_alone(handlers):
    seen = []
    thread = threading.Thread(target=run, args=(lambda: seen.append(StopRequest().__enter__()),))
    thread.start()
    thread.join()
    assert len(seen) == 1 and not seen[0].requested
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers


@pytest.mark.parametrize('number', SIGNALS)
def test_stop_request(number, handlers):
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested


def test_the_same_signal_twice_stops_at_once_but_not_two_of_one_ctrl_c(handlers):
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # torchrun's
        assert stop.requested
        signal.raise_signal(signal.SIGINT)
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers


def test_under_nohup_a_closed_terminal_changes_nothing(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.requested
