"""launch/resilient: a run goes on by itself where that can help, and ends where it cannot."""

import os
import pathlib
import signal
import subprocess
import time
import unittest
import uuid

from faulty_run import FaultyRun
from lockstep_runner import environment, execute, kill, outliving, processes_of

RESILIENT = pathlib.Path(__file__).parents[2] / "launch/resilient"


class ResilientTest(FaultyRun):
    def command(self, run, *flags, more=()):
        return [RESILIENT, "--binary", os.environ["LOCKSTEP"], "--backoff", "0", *flags, "--", *self.words(run, *more)]

    def resilient(self, run, faults, *flags, more=()):
        result = execute(self.command(run, *flags, more=more), env={"LOCKSTEP_FAULT": faults}, timeout_s=100)
        self.assertEqual(result.left_over, [], str(result))
        return result

    def test_three_crashes_are_ridden_out(self):  # ctest: waits
        run = self.folder / "a run"
        result = self.resilient(run, "kill@1:6,kill@0:checkpoint,exit@1:13", "-n", "2")
        self.assertEqual(result.rc, 0, str(result))
        self.assertEqual((run / "final.pth").read_bytes(), self.undisturbed(ranks=2))
        self.assertEqual(str(result).count("resilient: ended with code"), 3, str(result))
        self.assertEqual([line["step"] for line in self.metrics(run, "train")], list(range(1, 21)))

    def test_what_a_restart_cannot_mend_ends_at_once(self):  # ctest: waits
        for faults, code in (("nan@1:5", 76), ("throw@0:5", 70)):
            result = self.resilient(self.folder / faults.replace(":", "-"), faults, "-n", "2")
            self.assertEqual(result.rc, code, str(result))
            self.assertNotIn("restart 1 of", str(result))
        for flags, more in ((["--max-restarts", "x"], []), ([], ["--resume", "auto"]), (["--elastic", "3:2"], []), ([], ["--overwrite"])):
            result = execute(self.command(self.folder / "none", *flags, more=more))
            self.assertEqual(result.rc, 64, str(result))
            self.assertIn("hint: ", result.stderr)

    def test_it_gives_up(self):  # ctest: waits
        result = self.resilient(self.folder / "run", "kill@0:init,kill@0:init,kill@0:init", "-n", "1", "--max-restarts", "1")
        self.assertEqual(result.rc, 137, str(result))
        self.assertIn("after 1 restarts", result.stderr)

    def test_fewer_ranks_where_allowed(self):  # ctest: waits
        run = self.folder / "run"
        virtual = ["--set", "train.virtual_ranks=2"]
        result = self.resilient(run, "kill@1:init,kill@1:init,kill@1:init,kill@1:init", "--elastic", "1:2", more=virtual)
        self.assertEqual(result.rc, 0, str(result))
        self.assertIn("going on with 1 rank", str(result))
        self.assertEqual((run / "final.pth").read_bytes(), self.undisturbed(*virtual, ranks=2))

    def test_hosts_that_do_not_answer_are_left_out_until_they_do(self):  # ctest: waits
        # Two names of this machine, to which mpirun starts a second daemon. The way to them fails once for the second, and it loses
        # the count of restarts as ssh would.
        away = self.folder / "away"
        away.touch()
        way = self.folder / "way"
        way.write_text(f"""#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do [ "$1" = -o ] && shift; shift; done
[ "$1" != 127.0.0.2 ] || ! rm '{away}' 2>/dev/null || exit 255
shift
unset LOCKSTEP_RESTART
exec sh -c "$*"
""")
        way.chmod(0o755)
        run = self.folder / "run"
        virtual = ["--set", "train.virtual_ranks=2"]
        flags = ["--backoff", "0", "--elastic", "1:2", "--hosts", "127.0.0.1:1,127.0.0.2:1"]
        env = {"LOCKSTEP_SSH": str(way), "LOCKSTEP_FAULT": "kill@0:6,kill@1:13"}
        result = execute(self.command(run, *flags, more=virtual), env=env, timeout_s=60)
        self.assertEqual((result.rc, result.left_over), (0, []), str(result))
        self.assertEqual(result.stderr.count("no answer from 127.0.0.2"), 1, str(result))
        self.assertEqual(str(result).count("restart 2 of"), 1, str(result))
        self.assertEqual((run / "final.pth").read_bytes(), self.undisturbed(*virtual, ranks=2))

    def test_too_few_hosts_are_asked_again_and_then_given_up(self):
        flags = ["--elastic", "2:3", "--hosts", "127.0.0.1:1,127.0.0.2:2", "--max-restarts", "1"]
        result = execute(self.command(self.folder / "run", *flags), env={"LOCKSTEP_SSH": "false"})
        self.assertEqual(result.rc, 69, str(result))
        self.assertEqual(result.stderr.count("no answer from 127.0.0.1 127.0.0.2"), 2, str(result))
        self.assertFalse((self.folder / "run").exists())

    def test_a_signal_saves_and_is_no_crash(self):
        run = self.folder / "run"
        process, job = self.start(run, self.command(run, "-n", "2", "--backoff", "100")[:-len(self.words(run))])
        os.killpg(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(20), 85)
        self.assertEqual(outliving(job), [])
        self.assert_stopped_and_goes_on(run, ranks=2)

    def test_a_signal_between_two_starts_ends_it(self):
        run = self.folder / "run"
        log = self.folder / "log"
        job = uuid.uuid4().hex
        self.addCleanup(lambda: kill(processes_of(job)))
        words = list(map(str, self.command(run, "-n", "1", "--backoff", "100")))
        with log.open("wb") as file:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                       env=environment(job, {"LOCKSTEP_FAULT": "kill@0:init"}), start_new_session=True)
        self.wait_for(lambda: "restart 1 of" in log.read_text())
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(5), 85, log.read_text())
        self.assertEqual(outliving(job), [])


if __name__ == "__main__":
    unittest.main()
