"""What the docs tell people to type: README's commands run as written, and every other command names programs and flags that there are."""

import functools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import unittest

from lockstep_runner import LockstepTest, execute

TOP = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = re.compile(r"(launch|benchmarks|build/release)/[a-z_/.-]+$|lockstep$|mpirun$|[A-Z_]+=\S*$")
MPIRUN = {"-n", "--oversubscribe", "--bind-to", "--host", "--allow-run-as-root", "--mca"}


def commands(page):
    """(line number, command) of a page: lines of its code blocks, and code within sentences, that begin with a program of ours."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
            continue
        if fenced or line.startswith("    "):
            found = [re.split(r"\s{2,}|\s#", line.strip())[0]]
        else:
            found = re.findall(r"`([^`]+)`", line.replace("\\|", "|"))
        for text in found:
            try:
                words = shlex.split(text)
            except ValueError:
                continue
            if words and PROGRAM.match(words[0]):
                yield number, text


@functools.cache
def help_of(*program):
    # A ready program may be elsewhere than build/release, where the docs have it.
    words = [os.environ["LOCKSTEP"] if word.endswith("lockstep") else word for word in program]
    shown = subprocess.run([*words, "--help"], cwd=TOP, capture_output=True, text=True, timeout=60)
    return shown.stdout if shown.returncode == 0 else None


class DocumentedCommandsTest(LockstepTest):
    def assert_known(self, words, where):
        """The program is there, its help names every flag, and what it starts in its turn is known too."""
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        if not words:
            return
        rest = []
        if words[0] == "mpirun":
            at = 1
            while at < len(words) and words[at].startswith("-"):
                self.assertIn(words[at], MPIRUN, where)
                at += 1 if words[at] in ("--oversubscribe", "--allow-run-as-root") else 3 if words[at] == "--mca" else 2
            self.assert_known(words[at:], where)
            return
        if words[0].startswith("launch/slurm") or words[0] == "launch/pins" or words[0].startswith("launch/mpirun"):
            self.assertTrue((TOP / words[0]).exists(), where)
            return
        if words[0].startswith("launch/recipes") or words[0] in ("launch/", "benchmarks/", "benchmarks/pieces"):
            return
        if words[0].endswith("/pieces"):
            return
        if "--" in words:
            words, rest = words[: words.index("--")], words[words.index("--") + 1 :]
        program = words[:1]
        if program[0].endswith("lockstep"):
            commands_of_two = {"data", "bench"}
            count = 2 if len(words) > 1 and words[1] in commands_of_two else 1
            if len(words) > 1 and not words[1].startswith("-"):
                program = words[: 1 + count]
            if len(program) < len(words) and program == words[:1]:
                return  # lockstep --version, lockstep --help
        text = help_of(*program)
        self.assertIsNotNone(text, f"{where}: no {' '.join(program)}, or no help of it")
        if program[0] != "launch/test":  # it gives its flags to ctest
            for at, word in enumerate(words):
                if re.match(r"--?[a-z]", word):
                    self.assertRegex(text, rf"(^|[\s,|\[]){re.escape(word.split('=')[0])}\b", f"{where}: {' '.join(program)} has no {word}")
                if word == "--set" and re.match(r"[a-z]+\.", words[at + 1]):
                    self.assertIn(f" {words[at + 1].split('=')[0]} ", text, f"{where}: no such setting")
        if rest:
            started = rest if PROGRAM.match(rest[0]) else ["lockstep", *rest]
            self.assert_known(started, where)

    def test_every_documented_command_has_its_program_and_flags(self):
        seen = 0
        for page in (TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))):
            for number, text in commands(page):
                words = [word.strip("[]") for word in shlex.split(text.replace("…", ""))]
                with self.subTest(text=text):
                    self.assert_known([word for word in words if word], f"{page.relative_to(TOP)}:{number}: {text}")
                    seen += 1
        self.assertGreater(seen, 50)

    def project(self):
        """A project folder with the program, the scripts and a small data set where a person has them."""
        project = self.folder / "project"
        (project / "build/release").mkdir(parents=True)
        (project / "launch").symlink_to(TOP / "launch")
        (project / "build/release/lockstep").symlink_to(os.environ["LOCKSTEP"])
        shutil.copytree(self.small_data(160, 40), project / "data")
        return project

    def test_the_commands_of_the_readme_run_as_written(self):  # ctest: processors=2 timeout=180
        project = self.project()
        block = [text for _, text in commands(TOP / "README.md") if re.match(r"(launch/run|mpirun|build/)\S* .", text)]
        self.assertGreaterEqual(len(block), 7)
        for text in block:
            words = shlex.split(text.replace("…", ""))
            # As they stand, but for the time that they take.
            if "train" in words and "--resume" not in words and "--out" not in words:
                words += ["--max-steps", "1", "--set", "train.global_batch=80"]
            with self.subTest(text=text):
                result = execute(words, cwd=project, timeout_s=90)
                self.assertEqual(result.rc, 0, str(result))

    def test_data_is_found_in_the_same_places_by_the_command_and_the_scripts(self):
        project = self.project()
        elsewhere = self.folder / "elsewhere/deep"
        elsewhere.mkdir(parents=True)
        check = ["data", "check"]
        run = [project / "launch/run", "-n", "1", "--"]
        self.assertEqual(execute([*run, *check], cwd=elsewhere).rc, 0)  # the project's
        shared = self.folder / "shared/data"
        shared.parent.mkdir()
        (project / "data").rename(shared)
        self.assertIn("../shared/data: complete", self.done(*check, cwd=project).stdout)
        self.assertEqual(execute([*run, *check], cwd=elsewhere).rc, 0)
        self.assertEqual(execute([os.environ["LOCKSTEP"], *check], cwd=elsewhere).rc, 66)
        self.done(*check, cwd=elsewhere, env={"LOCKSTEP_DATA": str(shared)})
        for command in ([os.environ["LOCKSTEP"], *check], [*run, *check], [project / "launch/quickstart"]):
            # Named but empty: refused, and not looked for elsewhere.
            result = execute(command, cwd=project, env={"LOCKSTEP_DATA": str(elsewhere)})
            self.assertEqual(result.rc, 66, str(result))
            self.assertIn(str(elsewhere), result.stderr)
        ask = "import needs; print(needs.data_folder())"
        shown = execute(["python3", "-c", ask], cwd=project, env={"PYTHONPATH": str(TOP / "benchmarks")})
        self.assertEqual(shown.stdout.strip(), "../shared/data")

    def test_a_project_takes_the_library_by_add_subdirectory(self):
        (self.folder / "CMakeLists.txt").write_text(f"""cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES CXX)
add_subdirectory("{TOP}" lockstep)
add_executable(consumer main.cpp)
target_link_libraries(consumer PRIVATE lockstep::lockstep)
""")
        (self.folder / "main.cpp").write_text('#include "lockstep/world.h"\nint main() { return lockstep::World().rank(); }\n')
        built = self.folder / "build"
        result = execute(["cmake", "-G", "Ninja", "-S", self.folder, "-B", built])
        self.assertEqual(result.rc, 0, str(result))
        self.assertFalse((built / "lockstep/tests").exists(), "tests of the library are not the consumer's")
        result = execute(["ninja", "-C", built, "CMakeFiles/consumer.dir/main.cpp.o"])  # the library itself is built elsewhere
        self.assertEqual(result.rc, 0, str(result))


if __name__ == "__main__":
    unittest.main()
