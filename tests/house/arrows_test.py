"""The house stays in order: includes go down only, and MPI and c10d stay in their rooms (docs/architecture.md)."""
import pathlib
import re
import sys
import unittest

TOP = pathlib.Path(sys.argv.pop(1))
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.M)

MAY_INCLUDE = {
    "world": set(),
    "comm": {"world"},
    "cuda": {"world"},
    "bench": {"world", "comm", "log"},
    "store": set(),
    "log": {"store"},
    "data": {"store", "log"},
    "kernels": set(),
    "model": set(),
    "optim": set(),
    "ddp": {"comm", "world", "store"},
    "train": {"world", "data", "model", "optim", "ddp", "store", "log"},
    "cli": {"world", "comm", "bench", "data", "model", "ddp", "store", "log", "train"},
}


def sources(folder):
    return sorted(path for path in (TOP / folder).rglob("*") if path.suffix in (".h", ".cpp"))


def includes(path):
    return INCLUDE.findall(path.read_text())


class House(unittest.TestCase):
    def test_every_room_is_known(self):
        rooms = {path.name for path in (TOP / "src").iterdir() if path.is_dir()}
        self.assertEqual(rooms, set(MAY_INCLUDE))

    def test_includes_between_rooms_go_down_only(self):
        for path in sources("src"):
            room = path.relative_to(TOP / "src").parts[0]
            for name in includes(path):
                other = name.split("/")[0]
                if other in MAY_INCLUDE and other != room:
                    self.assertIn(other, MAY_INCLUDE[room], f"{path.relative_to(TOP)} includes {name}")

    def test_mpi_stays_in_world_and_comm(self):
        for path in sources("src") + sources("include"):
            if "mpi.h" in includes(path):
                self.assertIn(path.relative_to(TOP).parts[1], ("world", "comm"), path)

    def test_c10d_stays_in_comm_and_ddp(self):
        for path in sources("src") + sources("include"):
            if any("distributed/c10d" in name for name in includes(path)):
                self.assertIn(path.relative_to(TOP).parts[1], ("comm", "cuda", "ddp"), path)

    def test_cuda_and_nccl_stay_in_their_library(self):
        for path in sources("src") + sources("include"):
            if any(re.match(r"cuda(_|\.h)|nccl\.h|(ATen|c10)/cuda/|.*ProcessGroupNCCL", name) for name in includes(path)):
                self.assertEqual(path.relative_to(TOP).parts[1], "cuda", path)

    def test_public_headers_show_no_private_one(self):
        for path in sources("include"):
            for name in includes(path):
                self.assertNotIn(name.split("/")[0], MAY_INCLUDE, f"{path.name} includes {name}")


if __name__ == "__main__":
    unittest.main()
