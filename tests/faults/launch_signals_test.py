"""What signals to launch/run and launch/resilient do, Ctrl-C in a terminal among them."""

import os
import pathlib
import pty
import re
import signal
import threading
import time
import unittest
import uuid

from faulty_run import ENDLESS, FaultyRun
from lockstep_runner import environment, kill, outliving, processes_of

LAUNCH_DIR = pathlib.Path(__file__).resolve().parents[2] / "launch"


def launcher(script, *flags):
    return [LAUNCH_DIR / script, "-n", "2", "--binary", os.environ["LOCKSTEP"], *flags, "--"]


class LaunchSignalsTest(FaultyRun):
    def assert_saves_and_stops(self, send):
        run = self.folder / "run"
        process, job = self.start(run, launcher("run"))
        send(process.pid)
        self.assertEqual(process.wait(15), 85)
        self.assertEqual(outliving(job), [])
        self.assert_stopped_and_goes_on(run, ranks=2)

    def test_term_saves_and_stops(self):  # ctest: processors=2
        self.assert_saves_and_stops(lambda pid: os.kill(pid, signal.SIGTERM))

    def test_int_to_the_whole_group_saves_and_stops(self):  # ctest: processors=2
        self.assert_saves_and_stops(lambda pid: os.killpg(pid, signal.SIGINT))

    def test_a_second_signal_ends_it_within_3_s(self):  # ctest: processors=2
        process, job = self.start(self.folder / "run", launcher("run"))
        os.kill(self.ranks_of(job)[1], signal.SIGSTOP)  # so that the first one is of no use
        process.send_signal(signal.SIGTERM)
        time.sleep(0.7)
        self.assertIsNone(process.poll())
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        self.assertNotIn(process.wait(15), (0, 85))
        self.assertLess(time.monotonic() - start, 3)
        self.assertEqual(outliving(job), [])

    def test_a_second_signal_after_the_save_changes_nothing(self):  # ctest: processors=2
        run = self.folder / "run"
        process, job = self.start(run, launcher("run"))
        process.send_signal(signal.SIGTERM)
        self.wait_for(lambda: not self.ranks_of(job))  # mpirun itself takes another second or two
        time.sleep(0.6)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(15), 85)

    def test_nothing_is_left_when_the_script_is_killed(self):  # ctest: waits
        for script in ("run", "resilient"):
            process, job = self.start(self.folder / script, launcher(script))
            process.kill()
            process.wait(5)
            self.wait_for(lambda: not processes_of(job), 8)

    def test_ctrl_c_in_a_terminal_saves_and_is_no_failure(self):  # ctest: waits
        for script in ("run", "resilient"):
            run = self.folder / script
            words = list(map(str, [*launcher(script), *self.words(run, *ENDLESS, "--set", "log.every_steps=0")]))
            job = uuid.uuid4().hex
            self.addCleanup(lambda job=job: kill(processes_of(job)))
            env = environment(job)
            pid, terminal = pty.fork()
            if pid == 0:
                os.execvpe(words[0], words, env)
            shown = []

            def read(terminal=terminal, shown=shown):
                try:
                    while block := os.read(terminal, 65536):
                        shown.append(block.decode("utf-8", "replace"))
                except OSError:  # the other end was closed
                    pass

            reader = threading.Thread(target=read)
            reader.start()
            # The bar, which is drawn on terminals only.
            self.wait_for(lambda run=run, shown=shown: len(self.checkpoints(run)) >= 2 and re.search(r"step \d+/20", "".join(shown)))
            os.write(terminal, b"\x03")
            self.wait_for(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            reader.join(5)
            os.close(terminal)
            text = "".join(shown)
            self.assertEqual(code, 0, text)
            self.assertEqual(text.count("run: saving and stopping"), 1, text)
            self.assertIn("stopped on request", text)
            self.assertEqual(self.metrics(run, "end")[0]["reason"], "stopped on request")
            self.assertEqual(outliving(job), [])


if __name__ == "__main__":
    unittest.main()
