"""Runs in the plugin's own environment: `PYTHON -m unittest discover -s examples/plugins/ocr`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import unittest
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from PIL import Image

from layout import in_reading_order, joined
from ocr_plugin import CancelledError, OcrPlugin, PageError, load_page

PAGES = HERE.parents[1] / "pages"
# What any Linux with glibc has, and what every binary wheel may therefore expect (the manylinux agreement).
SYSTEM_LIBRARIES = {
    "linux-vdso.so.1",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
    *(f"lib{name}.so.{number}" for name, number in (("c", 6), ("m", 6), ("dl", 2), ("rt", 1), ("pthread", 0))),
    *("libgcc_s.so.1", "libstdc++.so.6", "libutil.so.1", "libz.so.1"),
}


class Run:
    """One streamed run, with everything that came out of it."""

    def __init__(self, plugin: OcrPlugin, page: Path) -> None:
        self.progress: list[tuple[float, str]] = []
        self.lines: list[dict[str, Any]] = []
        self.lines_at_progress: list[int] = []
        plugin.report_progress = self._note  # what the worker does
        stream = plugin.execute_stream(str(page))
        self.result: dict[str, Any] = {}
        while True:
            try:
                self.lines.append(next(stream))
            except StopIteration as end:
                self.result = end.value
                return

    def _note(self, progress: float, message: str = "") -> None:
        self.progress.append((progress, message))
        self.lines_at_progress.append(len(self.lines))


class PluginCase(unittest.TestCase):
    """A plugin that is loaded once, and a scratch folder for each test."""

    plugin: OcrPlugin

    @classmethod
    def setUpClass(cls) -> None:
        cls.plugin = OcrPlugin()
        cls.plugin.initialize({"threads": 2})

    def setUp(self) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="ocr-test-"))
        self.addCleanup(shutil.rmtree, self.scratch)
        self.plugin.grange_scratch = str(self.scratch)
        self.plugin.__dict__.pop("report_progress", None)
        self.addCleanup(self.plugin.initialize, self.plugin.get_current_config())


class Pages(PluginCase):
    def test_letter(self) -> None:
        text = self.plugin.execute(str(PAGES / "letter.png"))["text"]
        self.assertIn("Reference: GR-2041", text)
        self.assertIn("whichever host has room, and jobs that run while a machine goes down are", text)
        self.assertIn("If a job of yours waits longer than ten minutes, ask the farm why", text)
        self.assertIn("14 April 2025", text)
        self.assertLess(text.index("Dear neighbours"), text.index("With kind regards"))

    def test_invoice_reads_its_table_row_by_row(self) -> None:
        rows = self.plugin.execute(str(PAGES / "invoice.png"))["text"].splitlines()
        cells = [row.split("    ") for row in rows]
        self.assertIn(["North Field Archive", "Invoice number", "GR-2025-0417"], cells)
        self.assertIn(["Object storage, one month", "3", "TB", "14.50", "43.50"], cells)
        self.assertIn(["Total due", "1,076.64"], cells)

    def test_photograph(self) -> None:
        text = self.plugin.execute(str(PAGES / "delivery-note.png"))["text"]
        for words in ("Delivery note", "7731", "graphics card", "61 kg", "RECEIVED"):
            self.assertIn(words, text)
        note = text.splitlines()
        self.assertTrue(any("16x" in row.replace(" ", "") and "memory module" in row for row in note), text)

    def test_a_page_that_stands_on_its_head(self) -> None:
        path = self.scratch / "turned.png"
        with Image.open(PAGES / "delivery-note.png") as page:
            page.rotate(180).save(path)
        self.assertIn("Keep dry", self.plugin.execute(str(path))["text"])

    def test_one_language_keeps_the_letters_of_the_other_out(self) -> None:
        page = self.plugin.execute(str(PAGES / "invoice.png"), ["en"])["text"]
        self.assertTrue(all(ord(letter) <= 0x20CF for letter in page), page)
        self.assertIn("GR-2025-0417", page)

    def test_an_empty_page(self) -> None:
        path = self.scratch / "empty.png"
        Image.new("L", (400, 300), 255).save(path)
        result = self.plugin.execute(str(path))
        self.assertEqual((result["lines"], result["text"], result["mean_confidence"]), (0, "", None))


class Streaming(PluginCase):
    def test_lines_come_in_order_while_the_page_is_read(self) -> None:
        run = Run(self.plugin, PAGES / "invoice.png")
        numbers = [line["line"] for line in run.lines]
        self.assertEqual(numbers, sorted(numbers))
        self.assertEqual({line["of"] for line in run.lines}, {max(numbers)})
        self.assertEqual(len(run.lines), run.result["lines"])
        self.assertEqual(run.result["text"].split(), " ".join(line["text"] for line in run.lines).split())
        # Progress was told between the lines, not all of it before or after them.
        self.assertGreater(len(set(run.lines_at_progress)), len(run.lines) // 2)

    def test_progress_only_grows_and_ends_at_one(self) -> None:
        progress = [value for value, _ in Run(self.plugin, PAGES / "delivery-note.png").progress]
        self.assertEqual(progress[0], 0.0)
        self.assertEqual(progress[-1], 1.0)
        self.assertTrue(all(before <= after for before, after in pairwise(progress)), progress)

    def test_result_and_chunks_have_what_is_promised(self) -> None:
        run = Run(self.plugin, PAGES / "delivery-note.png")
        self.assertEqual(set(run.lines[0]), {"line", "of", "text", "confidence", "box"})
        self.assertEqual([len(corner) for corner in run.lines[0]["box"]], [2, 2, 2, 2])
        self.assertEqual((run.result["width"], run.result["height"]), (900, 1160))
        self.assertGreater(run.result["mean_confidence"], 0.85)

    def test_cancel_ends_the_run_between_lines_and_the_next_run_works(self) -> None:
        stream = self.plugin.execute_stream(str(PAGES / "letter.png"))
        next(stream)
        self.assertTrue(self.plugin.cancel())
        with self.assertRaises(CancelledError):
            next(stream)
        self.assertEqual(self.plugin.execute(str(PAGES / "letter.png"))["lines"], 25)

    def test_annotated_picture_lies_in_scratch_and_shows_both_sides(self) -> None:
        result = self.plugin.execute(str(PAGES / "invoice.png"))
        picture = result["annotated"]
        self.assertEqual(picture, self.scratch / "invoice-annotated.png")
        with Image.open(picture) as image:
            self.assertEqual(image.format, "PNG")
            self.assertGreater(image.width, image.height)
            right = image.convert("L").crop((image.width // 2 + 8, 0, image.width, image.height))
        self.assertLess(right.getextrema()[0], 90, "there is no text on the right")


class Configuration(PluginCase):
    def test_a_part_is_merged_over_what_is_there(self) -> None:
        self.plugin.initialize({"annotate": False})
        self.plugin.initialize({"min_confidence": 1.0})
        self.assertEqual(
            self.plugin.get_current_config(),
            {"min_confidence": 1.0, "max_side": 1280, "annotate": False, "threads": 2},
        )
        result = self.plugin.execute(str(PAGES / "delivery-note.png"))
        self.assertEqual((result["lines"], result["annotated"]), (0, None))
        self.plugin.initialize({"min_confidence": 0.5, "annotate": True})

    def test_schema_and_defaults_agree(self) -> None:
        properties = self.plugin.get_config_schema()["properties"]
        self.assertEqual({key: rule["default"] for key, rule in properties.items()}, OcrPlugin().get_current_config())

    def test_what_cannot_be_is_refused_by_name_and_changes_nothing(self) -> None:
        before = self.plugin.get_current_config()
        for config, words in (
            ({"max_size": 9}, "unknown configuration key `max_size`"),
            ({"max_side": 10}, "`max_side` is 10; it may be from 320 to 4096"),
            ({"threads": 1.5}, "`threads` is of type integer, not 1.5"),
            ({"annotate": "yes"}, "`annotate` is true or false"),
        ):
            with self.subTest(config), self.assertRaisesRegex(ValueError, words):
                self.plugin.initialize(config)
        self.assertEqual(self.plugin.get_current_config(), before)

    def test_released_networks_are_loaded_again(self) -> None:
        self.plugin.release()
        self.assertGreater(self.plugin.execute(str(PAGES / "delivery-note.png"))["lines"], 10)


class Mistakes(PluginCase):
    def message(self, page: Path, languages: list[str] | None = None) -> str:
        with self.assertRaises(ValueError) as caught:
            self.plugin.execute(str(page), languages)
        return str(caught.exception)

    def test_each_says_what_is_wrong_with_which_file(self) -> None:
        text = self.scratch / "notes.txt"
        text.write_text("not a picture")
        short = self.scratch / "short.png"
        short.write_bytes((PAGES / "letter.png").read_bytes()[:9000])
        for page, words in (
            (self.scratch / "none.png", "does not exist"),
            (self.scratch, "is a folder"),
            (text, "is not a picture that can be read: PNG, JPEG"),
            (short, "is damaged"),
        ):
            with self.subTest(page.name):
                message = self.message(page)
                self.assertIn(words, message)
                self.assertIn(str(page), message)

    def test_a_file_that_may_not_be_read(self) -> None:
        if os.geteuid() == 0:
            self.skipTest("root may read everything")
        page = self.scratch / "secret.png"
        page.touch(mode=0)
        self.assertIn("may not be read", self.message(page))

    def test_an_unknown_language(self) -> None:
        self.assertIn("language `fr` is not known", self.message(PAGES / "letter.png", ["en", "fr"]))

    def test_transparent_pages_are_paper(self) -> None:
        path = self.scratch / "clear.png"
        Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(path)
        self.assertEqual(load_page(str(path)).min(), 255)

    def test_mistakes_are_page_errors(self) -> None:
        with self.assertRaises(PageError):
            load_page("/nowhere/page.png")


class Layout(unittest.TestCase):
    def test_rows_follow_the_slope_of_a_photographed_page(self) -> None:
        def box(x: float, y: float, width: float = 100, slope: float = 0.3) -> list[list[float]]:
            drop = width * slope
            return [[x, y], [x + width, y + drop], [x + width, y + drop + 20], [x, y + 20]]

        # The right cell of each row lies lower than the left cell of the next.
        boxes = [box(0, 0), box(200, 60), box(0, 40), box(200, 100)]
        self.assertEqual(in_reading_order(boxes), [[boxes[0], boxes[1]], [boxes[2], boxes[3]]])

    def test_text_has_a_line_for_each_row(self) -> None:
        self.assertEqual(joined([["a", "b"], [], ["c"]]), "a    b\nc")


class Environment(unittest.TestCase):
    """The environment brings its own libraries: nothing is used that a machine merely happens to have."""

    def test_libraries_come_from_the_environment(self) -> None:
        if shutil.which("ldd") is None:
            self.skipTest("no ldd here")
        packages = Path(sysconfig.get_path("platlib"))
        libraries = sorted(path for path in packages.rglob("*.so*") if path.is_file())
        self.assertGreater(len(libraries), 20)
        carried = {path.name for path in libraries}
        clean = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
        for library in libraries:
            listed = subprocess.run(["ldd", str(library)], env=clean, capture_output=True, text=True, check=False)
            for line in listed.stdout.splitlines():
                if "statically linked" in line:
                    continue
                needed = Path(line.split()[0]).name
                self.assertIn(needed, carried | SYSTEM_LIBRARIES, f"{library} needs {needed}")

    def test_imports_with_a_bare_process_environment(self) -> None:
        script = "import ocr_plugin, cv2, rapidocr_onnxruntime; print(cv2.__version__)"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONPATH": str(HERE)},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
