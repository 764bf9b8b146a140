"""Hot pieces of our own scalar code take no more instructions than the figures kept here, which callgrind counts alike on every machine."""

import os
import pathlib
import re
import shutil
import unittest

from lockstep_runner import LockstepTest, execute

# Instructions for one more time, as g++ 12 makes them in the preset release. They may grow by TOLERANCE (another C library); where one
# has grown for a good reason, or shrunk for good, put the new figure here.
KEPT = {"event_line": 2771, "crc32c_64k": 442_391}
TOLERANCE = 0.1


class InstructionsTest(LockstepTest):
    def needs(self):
        if shutil.which("valgrind") is None:
            self.skip("valgrind is not installed (launch/setup --oracles brings it)")
        cache = pathlib.Path(os.environ["TEST_PROGRAMS"], "CMakeCache.txt").read_text()
        if not re.search(r"^CMAKE_BUILD_TYPE:\w+=Release$", cache, re.M) or not re.search(r"^LOCKSTEP_SANITIZE:\w+=$", cache, re.M):
            self.skip("the figures are those of the preset release")
        if re.search(r"^CMAKE_CXX_FLAGS:\w+=.+$", cache, re.M):
            self.skip("the figures are those of the preset release, without flags of one's own")

    def instructions(self, piece, times):
        program = pathlib.Path(os.environ["TEST_PROGRAMS"], "counted")
        result = execute(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, piece, times, self.folder])
        self.assertEqual(result.rc, 0, str(result))
        return int(re.search(r"Collected : (\d+)", result.stderr)[1])

    def assert_kept(self, piece):
        self.needs()
        # What starts and ends the program is in both.
        each = (self.instructions(piece, 120) - self.instructions(piece, 20)) / 100
        print(f"{piece}: {each:.0f} instructions, kept are {KEPT[piece]}")
        self.assertLess(each, KEPT[piece] * (1 + TOLERANCE), f"{piece} has grown")
        self.assertGreater(each, KEPT[piece] * 0.5, f"{piece} has shrunk: keep the new figure, or it guards nothing")

    def test_an_event_of_tensorboard(self):
        self.assert_kept("event_line")

    def test_a_checksum_of_64_kib(self):
        self.assert_kept("crc32c_64k")


if __name__ == "__main__":
    unittest.main()
